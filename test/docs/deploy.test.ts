// docs/deploy.md is followed by people who pay for what it says: every command in it exists, with its options.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { main } from "../../cli/main.ts";
import { createRecorder } from "../cli/recorder.ts";

const ROOT = path.resolve(import.meta.dirname, "../..");
const DOC = readFileSync(path.join(ROOT, "docs/deploy.md"), "utf8");

/** Commands of a program in code blocks and between backticks: the command's name and its options. */
function commandsOf(program: string): { readonly name: string; readonly options: readonly string[] }[] {
  const code = [...DOC.matchAll(/```sh\n(.*?)```|`([^`\n]+)`/gs)].map(([, block, inline]) => block ?? inline ?? "");
  const lines = code.flatMap((text) => text.replace(/ \\\n\s*/g, " ").split("\n"));
  return lines.flatMap((line) => {
    const [, name, rest = ""] = new RegExp(`^(?:npx )?${program} ([a-z][a-z-]*)(.*)$`).exec(line.trim()) ?? [];
    if (name === undefined) return [];
    return [{ name, options: [...rest.matchAll(/(?<= )--?[a-z][a-z-]*/g)].map(([option]) => option) }];
  });
}

test("every mergeyard command in docs/deploy.md exists, with its options", async () => {
  const commands = commandsOf("mergeyard");
  assert.ok(commands.length >= 7, `${commands.length} commands`);
  for (const { name, options } of commands) {
    const terminal = createRecorder();
    assert.equal(await main([name, "--help"], terminal), 0, name);
    for (const option of options) assert.match(terminal.out(), new RegExp(`${option}\\b`), `${name} ${option}`);
  }
});

test("every cdk command in docs/deploy.md exists, with its options", () => {
  const commands = commandsOf("cdk");
  assert.deepEqual([...new Set(commands.map(({ name }) => name))].sort(), ["bootstrap", "deploy", "destroy", "diff"]);
  const help = new Map<string, string>();
  for (const { name, options } of commands) {
    const cli = path.join(ROOT, "node_modules/aws-cdk/bin/cdk");
    const text = help.get(name) ?? spawnSync(process.execPath, [cli, name, "--help"], { encoding: "utf8" }).stdout;
    help.set(name, text);
    assert.match(text, new RegExp(`^cdk ${name}\\b`, "m"), `cdk ${name}`);
    for (const option of options)
      assert.match(text, new RegExp(`(?:^|[ ,])${option}(?:[ ,=]|$)`, "m"), `${name} ${option}`);
  }
});
