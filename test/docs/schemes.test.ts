// docs/schemes.md says what the registry says.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { renderSchemesDocument } from "../../tools/schemes-doc.ts";

test("docs/schemes.md says what the registry says: run `npm run docs`", () => {
  const text = readFileSync(path.resolve(import.meta.dirname, "../../docs/schemes.md"), "utf8");
  assert.ok(text === renderSchemesDocument());
});
