import assert from "node:assert/strict";
import test from "node:test";
import { nearestName } from "../../../core/recipe/nearest.ts";

const KEYS = ["merge_method", "models", "slices", "base_model", "dtype", "weight"];

test("the nearest known name is suggested for misspellings, and nothing for another word", () => {
  const cases: readonly (readonly [string, string | undefined])[] = [
    ["merge_methd", "merge_method"],
    ["mergemethod", "merge_method"],
    ["MODELS", "models"],
    ["wieght", "weight"],
    ["base-model", "base_model"],
    ["dtypes", "dtype"],
    ["xxweight", "weight"],
    ["xxxdtype", undefined],
    ["licence", undefined],
    ["x", undefined],
    ["", undefined],
  ];
  for (const [typed, nearest] of cases) assert.equal(nearestName(typed, KEYS), nearest, typed);
});

test("a swap of neighbours is one edit, so it wins over two substitutions", () => {
  assert.equal(nearestName("abdc", ["abxx", "abcd"]), "abcd");
});

test("of equally near names the first wins", () => {
  assert.equal(nearestName("cat", ["bat", "rat"]), "bat");
});

test("a very long name costs no more than a long one", () => {
  assert.equal(nearestName("m".repeat(1_000_000), KEYS), undefined);
});
