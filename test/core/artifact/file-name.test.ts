import assert from "node:assert/strict";
import { test } from "node:test";
import { fileNameSchema, isListedName, isPlainFileName } from "../../../core/artifact/file-name.ts";

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

test("a version lists files of its own folder and of folders in it, and no deeper or other ones", () => {
  for (const name of ["model.safetensors", "fp8_dynamic/model.safetensors"]) assert.ok(isListedName(name), name);
  for (const name of ["a/b/c", "/a", "a/", "../a", "a/..", "./a", "a//b", "a\\b", "a/b\0"]) {
    assert.equal(isListedName(name), false, JSON.stringify(name));
  }
});
