import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import test from "node:test";

const FILE = path.resolve(import.meta.dirname, "../../docs/semantics.md");
const text = readFileSync(FILE, "utf8");

test("every claim of docs/semantics.md names a test that exists", () => {
  const promised = text.slice(0, text.indexOf("## What is not promised"));
  const claims = promised.split("\n").filter((line) => line.startsWith("- "));
  assert.ok(claims.length > 30);
  for (const claim of claims) {
    const link = /\[test\]\((\S+) "(.+)"\)$/.exec(claim);
    assert.ok(link !== null, `no test: ${claim}`);
    const [, target = "", name = ""] = link;
    const file = path.join(path.dirname(FILE), target);
    assert.ok(existsSync(file), `no such file: ${target}`);
    assert.ok(readFileSync(file, "utf8").includes(name), `${target} has no test "${name}"`);
  }
});
