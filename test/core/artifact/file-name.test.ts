import assert from "node:assert/strict";
import { test } from "node:test";
import { fileNameSchema, isPlainFileName } from "../../../core/artifact/file-name.ts";

test("names of one file are plain", () => {
  for (const name of ["model.safetensors", ".gitattributes", "a b", "模型.json", "..a", "x".repeat(255)]) {
    assert.ok(isPlainFileName(name), name);
    assert.ok(fileNameSchema.safeParse(name).success);
  }
});

test("names that could leave the folder or cannot be written are not plain", () => {
  const names = ["", ".", "..", "a/b", "/a", "../a", "a\\b", "a\0b", "a\nb", "\u0085", "\ud800", "x".repeat(256)];
  for (const name of [...names, "é".repeat(128)]) {
    assert.equal(isPlainFileName(name), false, JSON.stringify(name));
    assert.equal(fileNameSchema.safeParse(name).success, false);
  }
});
