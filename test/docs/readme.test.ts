// README.md is run, not believed: its two lines, its commands with their output, its pipeline and its tables.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import test from "node:test";
import { main } from "../../cli/main.ts";
import { readRecipe } from "../../steps/read-recipe.ts";
import { renderReadmeTables } from "../../tools/readme-tables.ts";
import { createRecorder } from "../cli/recorder.ts";

const ROOT = path.resolve(import.meta.dirname, "../..");
const readme = readFileSync(path.join(ROOT, "README.md"), "utf8");

function blocksOf(language: string): string[] {
  return [...readme.matchAll(new RegExp(`^\`\`\`${language}\n([^]*?)^\`\`\``, "gm"))].map((match) => match[1] ?? "");
}

/** What differs between machines: times. Digests do not, whatever the machine. */
function normalise(text: string): string {
  return text.replace(/\d+(?:\.\d+)? s\b/g, "<time>").trim();
}

test("the two lines of README.md are the ones that continuous integration runs", () => {
  const lines = blocksOf("").map((block) => block.trim());
  const script = readFileSync(path.join(ROOT, ".ci/run"), "utf8");
  for (const command of ["npm run demo", "npm test"]) {
    assert.ok(lines.includes(`npm ci && ${command}`), command);
    assert.ok(script.includes(`readme_line "${command}"`), command);
  }
});

test("commands in README.md print what it says they print", async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "mergeyard-readme-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  symlinkSync(path.join(ROOT, "examples"), path.join(folder, "examples"));
  const steps = blocksOf("console").flatMap((block) => block.split(/^\$ /m).filter((step) => step.trim() !== ""));
  assert.ok(steps.length >= 2);
  for (const step of steps) {
    const [command = "", ...expected] = step.split("\n");
    const words = command.split(" ");
    assert.deepEqual(words.slice(0, 2), ["npx", "mergeyard"], command);
    const terminal = createRecorder({ cwd: folder });
    assert.equal(await main(words.slice(2), terminal), 0, terminal.err());
    assert.equal(normalise(terminal.out()), normalise(expected.join("\n")), command);
  }
});

test("every command is in the table of README.md, and every command there exists", async () => {
  const terminal = createRecorder();
  await main(["--help"], terminal);
  const commands = [...terminal.out().matchAll(/^ {2}([a-z]+) /gm)].map((match) => match[1] ?? "");
  const table = readme.slice(readme.indexOf("| command | does |"), readme.indexOf("Every command that prints"));
  const shown = [...table.matchAll(/`([a-z]+) /g)].map((match) => match[1] ?? "");
  assert.deepEqual([...new Set(shown)].sort(), commands.sort());
});

test("the pipeline of README.md is one", () => {
  const [text = ""] = blocksOf("yaml");
  const { pipeline, warnings } = readRecipe(new TextEncoder().encode(text), "README.md");
  assert.equal(pipeline.publish?.channel, "nightly");
  assert.deepEqual(warnings, []);
});

test("the tables of README.md are made from the registries", () => {
  assert.ok(readme === renderReadmeTables(readme), "a registry has changed: run `npm run docs`");
});
