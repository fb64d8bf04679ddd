import assert from "node:assert/strict";
import test from "node:test";
import { exitStatus, renderError, toMergeyardError } from "../../cli/error-block.ts";
import { MergeyardError } from "../../core/error.ts";

const refusal = new MergeyardError("SafetensorsHeaderTooSmall", {
  where: { file: "model.safetensors", offset: 0 },
  found: 7,
  expected: "at least 8 bytes",
  hint: "fetch the file again",
});

test("an error is one block: code, what, where, found, expected, what to do", () => {
  assert.deepEqual(renderError(refusal, false).split("\n"), [
    "error: SafetensorsHeaderTooSmall",
    "  what      the file is shorter than the 8 bytes of the header length",
    '  where     file "model.safetensors", offset 0',
    "  found     7",
    "  expected  at least 8 bytes",
    "  do        fetch the file again",
    "",
  ]);
});

test("fields that an error does not have are left out", () => {
  const lines = renderError(new MergeyardError("CliInterrupted"), false).trimEnd().split("\n");
  assert.deepEqual(
    lines.map((line) => line.trim().split(" ")[0]),
    ["error:", "what", "do"],
  );
});

test("with --json the same fields are one line of JSON", () => {
  const text = renderError(refusal, true);
  assert.equal(text.trimEnd().split("\n").length, 1);
  assert.deepEqual(JSON.parse(text), { error: JSON.parse(JSON.stringify(refusal)) });
});

test("usage is status 2, an interruption 130, every other refusal 1", () => {
  assert.equal(exitStatus(new MergeyardError("CliUsage")), 2);
  assert.equal(exitStatus(new MergeyardError("CliInterrupted")), 130);
  assert.equal(exitStatus(refusal), 1);
});

test("a fault of the program is told apart from bad input and keeps its stack", () => {
  const error = toMergeyardError(new TypeError("x is not a function"));
  assert.equal(error.code, "CliInternal");
  assert.equal(error.found, "TypeError: x is not a function");
  assert.equal(exitStatus(error), 1);
  assert.match(renderError(error, false), /\n {4}at /);
  assert.equal(toMergeyardError(refusal), refusal);
});
