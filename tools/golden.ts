// `npm run golden -- DIR`: every case of the golden sets in DIR, or in any folder below it that holds a cases.json,
// against the engine. Names each failing case and closes with a count; exit status 1 when a case failed or none was
// found.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { parseArgs } from "node:util";
import type { GoldenCase, Verdict } from "./golden/case.ts";
import { GOLDEN_SETS } from "./golden/sets.ts";

export type GoldenReport = {
  readonly passed: number;
  readonly failed: readonly { readonly id: string; readonly why: string }[];
  readonly skipped: readonly { readonly id: string; readonly why: string }[];
};

/** Runs every set below a folder. Cases run one after the other; `onVerdict` hears each. */
export async function runGolden(
  root: string,
  onVerdict: (id: string, verdict: Verdict) => void = () => {},
): Promise<GoldenReport> {
  const verdicts: { id: string; verdict: Verdict }[] = [];
  for (const { id, run } of findCases(root)) {
    const verdict = await run().catch((error: unknown): Verdict => ({ status: "failed", why: String(error) }));
    onVerdict(id, verdict);
    verdicts.push({ id, verdict });
  }
  const withStatus = (status: "failed" | "skipped") =>
    verdicts.flatMap(({ id, verdict }) => (verdict.status === status ? [{ id, why: verdict.why }] : []));
  const [failed, skipped] = [withStatus("failed"), withStatus("skipped")];
  return { passed: verdicts.length - failed.length - skipped.length, failed, skipped };
}

function findCases(root: string): readonly GoldenCase[] {
  const files = readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name === "cases.json")
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
  return files.flatMap((file) => {
    const document: unknown = JSON.parse(readFileSync(file, "utf8"));
    const folder = dirname(file);
    const prefix = relative(root, folder);
    const cases = GOLDEN_SETS.map((set) => set.open(folder, document)).find((found) => found !== undefined) ?? [];
    return cases.map(({ id, run }) => ({ id: prefix === "" ? id : `${prefix}/${id}`, run }));
  });
}

if (import.meta.main) {
  const { positionals, values } = parseArgs({ allowPositionals: true, options: { verbose: { type: "boolean" } } });
  const [root] = positionals;
  if (root === undefined || !existsSync(root)) {
    console.error(root === undefined ? "usage: npm run golden -- DIR [--verbose]" : `there is nothing at ${root}`);
    process.exit(2);
  }
  const report = await runGolden(root, (id, verdict) => {
    if (verdict.status === "failed") console.log(`FAILED ${id}: ${verdict.why}`);
    else if (values.verbose === true)
      console.log(`${verdict.status} ${id}${"why" in verdict ? `: ${verdict.why}` : ""}`);
  });
  const { passed, failed, skipped } = report;
  console.log(`${passed} passed, ${failed.length} failed, ${skipped.length} skipped`);
  process.exit(failed.length > 0 || passed + skipped.length === 0 ? 1 : 0);
}
