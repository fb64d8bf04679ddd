// docs/recipes.md: its table of parameters says what the methods' schemas say.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { renderRecipesTable } from "../../tools/recipes-table.ts";

test("the parameters of docs/recipes.md are those of the methods: run `npm run docs`", () => {
  const page = readFileSync(path.resolve(import.meta.dirname, "../../docs/recipes.md"), "utf8");
  assert.ok(page === renderRecipesTable(page));
  for (const row of ["| `slerp` |  | **`t`** |", "| `localize_and_stitch` | `density` 0.05 |  |"]) {
    assert.ok(page.includes(`\n${row}\n`), row);
  }
});
