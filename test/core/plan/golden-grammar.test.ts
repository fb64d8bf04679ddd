// Goal: recipes of several parts give what the reference gives. Method: golden cases made by mergekit itself; see
// test/golden/grammar/README.md.
import assert from "node:assert/strict";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { runGolden } from "../../../tools/golden.ts";

test("vocabularies and recipes of several documents give the reference's results", async () => {
  const verdicts = new Map<string, string>();
  const folder = fileURLToPath(new URL("../../golden/grammar", import.meta.url));
  const { failed } = await runGolden(folder, (id, { status }) => void verdicts.set(id, status));
  assert.deepEqual(failed, []);
  assert.deepEqual(
    [...verdicts],
    [
      ["recipe-multi", "passed"],
      ["recipe-tokenizer-union", "passed"],
    ],
  );
});
