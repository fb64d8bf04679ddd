// Tables inside documents that people write: each stands between two markers, is made by a program and compared by a
// test. Used by the tools that `npm run docs` starts.

/** The text with a table in its place. Throws when the text has no markers of that name. */
export function replaceTable(text: string, name: string, table: string): string {
  const [begin, end] = [`<!-- ${name}: made by npm run docs -->`, `<!-- end of ${name} -->`];
  const [from, to] = [text.indexOf(begin), text.indexOf(end)];
  if (from === -1 || to < from) throw new Error(`there is no place for the table of ${name}`);
  return `${text.slice(0, from + begin.length)}\n${table}\n${text.slice(to)}`;
}
