// What the documents tell people to type: every mergeyard command in them exists, with its options.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { main } from "../../cli/main.ts";
import { createRecorder } from "../cli/recorder.ts";
import { commandsOf } from "./commands-of.ts";

const ROOT = path.resolve(import.meta.dirname, "../..");
const PAGES = ["README.md", ...readdirSync(path.join(ROOT, "docs")).map((name) => `docs/${name}`)];

const helps = new Map<string, string>();

/** The help of a command; of `lora` that of both its parts, as a page may speak of either. */
async function helpOf(name: string): Promise<string> {
  const known = helps.get(name);
  if (known !== undefined) return known;
  const calls = name === "lora" ? ["extract", "merge"].map((part) => [name, part]) : [[name]];
  const texts: string[] = [];
  for (const call of calls) {
    const terminal = createRecorder();
    assert.equal(await main([...call, "--help"], terminal), 0, call.join(" "));
    texts.push(terminal.out());
  }
  helps.set(name, texts.join(""));
  return texts.join("");
}

/** README's table of commands leaves the program's name out. */
function withTable(readme: string): string {
  const table = readme.slice(readme.indexOf("| command | does |"), readme.indexOf("Every command that prints"));
  const cells = [...table.matchAll(/^\| (`.*?`) \| /gm)].map((match) => match[1] ?? "");
  assert.ok(cells.length > 20);
  return `${readme}\n${cells.join("\n").replace(/`([^`]+)`/g, "`mergeyard $1`")}`;
}

for (const page of PAGES.filter((name) => name.endsWith(".md"))) {
  test(`every mergeyard command in ${page} exists, with its options`, async () => {
    const text = readFileSync(path.join(ROOT, page), "utf8");
    for (const { name, options } of commandsOf("mergeyard", page === "README.md" ? withTable(text) : text)) {
      const help = await helpOf(name);
      for (const option of options) assert.match(help, new RegExp(`${option}\\b`), `${name} ${option}`);
    }
  });
}

test("every option of --help stands in a document", async () => {
  const pages = PAGES.filter((name) => name.endsWith(".md") && name !== "docs/errors.md");
  const texts = pages.map((page) => readFileSync(path.join(ROOT, page), "utf8")).join("");
  const terminal = createRecorder();
  assert.equal(await main(["--help"], terminal), 0);
  const commands = [...terminal.out().matchAll(/^ {2}([a-z][a-z-]+) /gm)].map((match) => match[1] ?? "");
  assert.ok(commands.length > 25);
  for (const name of commands) {
    for (const [, option = ""] of (await helpOf(name)).matchAll(/^ {2}(--[a-z][a-z-]*)/gm)) {
      assert.match(texts, new RegExp(`${option}(?![a-z-])`), `${name} ${option}`);
    }
  }
});

test("commands are found in blocks, between backticks and behind variables", () => {
  const block = "$ npx mergeyard plan \\\n  p.yaml --yard y  # --said\nX=1 mergeyard run";
  const text = `Text \`mergeyard lora merge A --out DIR\` and\n\`\`\`sh\n${block}\n\`\`\`\n`;
  assert.deepEqual(commandsOf("mergeyard", text), [
    { name: "plan", options: ["--yard"] },
    { name: "run", options: [] },
    { name: "lora", options: ["--out"] },
  ]);
});
