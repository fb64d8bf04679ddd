// docs/flow.md says exactly which fields are supported; the schemas decide. Both must say the same.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { JOB_RETRY } from "../../../flow/job-retry.ts";
import { GRACE_MS, MAP_CONCURRENCY_MAX } from "../../../local/asl/limits.ts";
import { machineSchema, stateSchema } from "../../../local/asl/schema.ts";

const text = readFileSync(new URL("../../../docs/flow.md", import.meta.url), "utf8");

/** Names in backticks of the table row that begins with `title`, what stands in parentheses left out. */
function documented(title: string): string[] {
  const row = text.split("\n").find((line) => line.startsWith(`| ${title} |`));
  assert.ok(row, `docs/flow.md has no row ${title}`);
  const fields = row.slice(title.length + 4).replace(/\([^)]*\)/g, "");
  return [...fields.matchAll(/`(\w+)`/g)].map((match) => match[1] ?? "").sort();
}

test("docs/flow.md lists the fields of every type of state", () => {
  const common = documented("every state");
  assert.deepEqual(common, ["Comment", "QueryLanguage", "Type"]);
  for (const option of stateSchema.options) {
    const type = option.shape.Type.value;
    assert.deepEqual([...common, ...documented(type)].sort(), Object.keys(option.shape).sort(), type);
  }
});

test("docs/flow.md lists the fields of a machine, of Retry and of Catch", () => {
  assert.deepEqual(documented("machine"), Object.keys(machineSchema.shape).sort());
  const task = stateSchema.options.find((option) => option.shape.Type.value === "Task");
  assert.ok(task !== undefined && "Retry" in task.shape);
  const { Retry, Catch } = task.shape;
  assert.deepEqual(documented("`Retry` entry"), Object.keys(Retry.unwrap().element.shape).sort());
  assert.deepEqual(documented("`Catch` entry"), Object.keys(Catch.unwrap().element.shape).sort());
});

test("docs/flow.md gives the numbers that hold", () => {
  assert.ok(text.includes(`at most ${MAP_CONCURRENCY_MAX} iterations`));
  assert.ok(text.includes(`has ${GRACE_MS / 1000} s to stop`));
  assert.ok(text.includes(`again, ${JOB_RETRY.attempts} attempts in all`));
});
