// What every report has: one HTML page without scripts, fonts or network, that reads as well printed as on a screen.

const STYLE = [
  "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:68rem;padding:0 1rem}",
  "body{color:#1c1c1c;background:#fff}",
  "h1{font-size:1.5rem}h2{font-size:1.1rem;margin:2rem 0 .2rem}p.note{margin:.1rem 0 .6rem;color:#555}",
  "table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{padding:.25rem .55rem;text-align:right}",
  "th:first-child,td:first-child{text-align:left}thead th{border-bottom:1px solid #999}",
  "figure{margin:0;overflow-x:auto}",
  "svg text{font:12px system-ui,sans-serif;fill:#1c1c1c}code{font:13px ui-monospace,monospace}",
].join("");

/** The page of a title (plain text) and its sections (HTML, in order; empty ones are left out). */
export function renderPage(title: string, sections: readonly string[]): string {
  return [
    `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>${escapeHtml(title)}</title>`,
    `<meta name="viewport" content="width=device-width, initial-scale=1"><style>${STYLE}</style></head><body>`,
    `<h1>${escapeHtml(title)}</h1>`,
    ...sections.filter((text) => text !== ""),
    "</body></html>\n",
  ].join("\n");
}

/** A titled part of a page; `note` is plain text, `body` HTML. */
export function section(title: string, note: string, body: string): string {
  const remark = note === "" ? "" : `<p class="note">${escapeHtml(note)}</p>`;
  return `<h2>${escapeHtml(title)}</h2>${remark}<figure>${body}</figure>`;
}

/** A table of titles (plain text) and rows (`<tr>` elements). */
export function table(head: readonly string[], rows: readonly string[]): string {
  const cells = head.map((title) => `<th>${escapeHtml(title)}</th>`).join("");
  return `<table><thead><tr>${cells}</tr></thead><tbody>${rows.join("")}</tbody></table>`;
}

/** The opening tag of a drawing of that size in pixels. */
export function openSvg(width: number, height: number, label: string): string {
  return `<svg viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${label}">`;
}

/** A share as percent with one decimal. */
export function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

/** Plain text as it stands in HTML. */
export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
