// Numbers and tables as people read them, and sizes as people write them. Pure functions; no terminal here.
import type { Signature } from "../steps/signature.ts";

const DECIMAL_UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];
/** Factors of the suffixes that `parseBytes` knows; without a suffix the number is bytes. */
const SUFFIXES: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  k: 1e3,
  kb: 1e3,
  m: 1e6,
  mb: 1e6,
  g: 1e9,
  gb: 1e9,
  t: 1e12,
  tb: 1e12,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
};

/** `1.71 MB`: three significant digits in decimal units; exact below 1000 bytes. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < DECIMAL_UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${DECIMAL_UNITS[unit]}`;
}

/** `512 MiB`: memory, in binary units, rounded up to a whole MiB. */
export function formatMemory(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`;
}

/** `853 120`: thousands set apart by a space. */
export function formatCount(count: number): string {
  return String(count).replace(/\B(?=(\d{3})+$)/g, " ");
}

/** `1 unit`, `8 units`. */
export function countOf(count: number, noun: string): string {
  return `${formatCount(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** `0.4 s`, `42 s`, `3 min 20 s`, `2 h 05 min`. */
export function formatDuration(milliseconds: number): string {
  const seconds = milliseconds / 1000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${pad(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${pad(Math.floor((whole % 3600) / 60))} min`;
}

/** Bytes of `512MiB`, `2G`, `1.5 GB` or `1048576`; undefined for anything else. */
export function parseBytes(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim());
  const factor = SUFFIXES[match?.[2]?.toLowerCase() ?? "?"];
  if (match === null || factor === undefined) return undefined;
  const bytes = Math.round(Number(match[1]) * factor);
  return Number.isSafeInteger(bytes) && bytes > 0 ? bytes : undefined;
}

export type Column = { readonly title: string; readonly align: "left" | "right" };

/** A plain table: a line of titles, two spaces between columns, no trailing spaces. */
export function renderTable(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  const lines = [columns.map(({ title }) => title), ...rows];
  const widths = columns.map((_, index) => Math.max(...lines.map((line) => (line[index] ?? "").length)));
  const renderLine = (line: readonly string[]) =>
    columns
      .map(({ align }, index) => {
        const cell = line[index] ?? "";
        const width = widths[index] ?? 0;
        return align === "right" ? cell.padStart(width) : cell.padEnd(width);
      })
      .join("  ")
      .trimEnd();
  return lines.map(renderLine).join("\n");
}

function pad(value: number): string {
  return String(value).padStart(2, "0");
}

/** `; signed by sha256:…`: what is said of a version's signature after all else; nothing when there is none. */
export function describeSignature({ status, keyIds }: Signature): string {
  if (status === "absent") return "";
  const by = `; signed by ${keyIds.join(", ") || "a key without a name"}`;
  return status === "valid" ? by : `${by}, which was not checked: give --key`;
}

/** What a quantization lost, in words. */
export function describeLoss({
  snr,
  worst,
}: {
  readonly snr: number | null;
  readonly worst: { readonly tensor: string; readonly scheme: string; readonly snr: number } | null;
}): string {
  const lost = snr === null ? "nothing lost" : `${snr.toFixed(1)} dB signal to noise`;
  return worst === null ? lost : `${lost}, least ${worst.snr.toFixed(1)} dB in ${worst.tensor} (${worst.scheme})`;
}
