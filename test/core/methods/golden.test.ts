// Goal: every merge method gives what the reference gives. Method: the golden cases made by mergekit itself, planned
// and run as any recipe; see test/golden/merge/README.md.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { fileURLToPath } from "node:url";
import * as z from "zod";
import { METHOD_IDS } from "../../../core/methods/registry.ts";
import { runGolden } from "../../../tools/golden.ts";

const FOLDER = fileURLToPath(new URL("../../golden/merge", import.meta.url));
const { cases } = z
  .object({ cases: z.array(z.looseObject({ id: z.string(), method: z.string().optional() })) })
  .parse(JSON.parse(readFileSync(`${FOLDER}/cases.json`, "utf8")));

/** Cases that passed when this number was last raised: a case that is skipped is not a case that passes. */
const PASSED_MIN = 125;

test("every golden merge passes, and those of a registered method are not skipped", async () => {
  const { passed, failed, skipped } = await runGolden(FOLDER);
  assert.deepEqual(failed, []);
  const ofOurs = new Set(
    cases.filter(({ method }) => method !== undefined && METHOD_IDS.includes(method)).map(({ id }) => id),
  );
  assert.deepEqual(
    skipped.filter(({ id }) => ofOurs.has(id)),
    [],
  );
  assert.ok(passed >= PASSED_MIN, `${passed} cases passed`);
});
