/** Commands of a program in a page's code blocks and between backticks: the command's name and its options. */
export function commandsOf(program: string, page: string): { readonly name: string; readonly options: string[] }[] {
  const fenced = [...page.matchAll(/^```(\w*)[^\n]*\n(.*?)^```/gms)];
  const blocks = fenced.flatMap(([, language = "", text = ""]) => (/^(sh|console)?$/.test(language) ? [text] : []));
  const rest = page.replace(/^```.*?^```/gms, "");
  const inline = [...rest.matchAll(/`([^`]+)`/g)].map((match) => (match[1] ?? "").replaceAll("\n", " "));
  const lines = [...blocks, ...inline].flatMap((text) => text.replace(/ \\\n\s*/g, " ").split("\n"));
  const command = new RegExp(`^(?:\\$ )?(?:[A-Z_]+=\\S+ )*(?:npx )?${program} +([a-z][a-z-]*)([^#]*)`);
  return lines.flatMap((line) => {
    const [, name, words = ""] = command.exec(line.trim()) ?? [];
    if (name === undefined) return [];
    return [{ name, options: [...words.matchAll(/(?<= )--?[a-z][a-z-]*/g)].map(([option]) => option) }];
  });
}
