// docs/deploy.md is followed by people who pay for what it says: its commands exist, with their options.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { commandsOf } from "./commands-of.ts";

const ROOT = path.resolve(import.meta.dirname, "../..");
const DOC = readFileSync(path.join(ROOT, "docs/deploy.md"), "utf8");

test("every cdk command in docs/deploy.md exists, with its options", () => {
  const commands = commandsOf("cdk", DOC);
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
