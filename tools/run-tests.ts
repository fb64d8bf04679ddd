// `npm test`: runs every test under test/ with Node's own runner, then looks at what ran. Fails when a test failed or
// when fewer tests ran than test/floor.json demands (a run that finds no tests must not be green), and names the suites
// that were skipped with the way to enable them, as their skip reasons say it.
//
//   npm test                           everything, against the floor
//   npm test -- test/core              only these files or folders; the floor does not apply, but zero tests still fail
//   npm test -- --raise-floor          everything, and store the count as the new floor when it is higher
import { spawn } from "node:child_process";
import { globSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import * as z from "zod";

const ROOT = path.resolve(import.meta.dirname, "..");
const FLOOR_FILE = path.join(ROOT, "test/floor.json");
/** One test may take this long; a hung one must not hang the run. */
const TEST_TIMEOUT_MS = 180_000;

const floorSchema = z.strictObject({ tests: z.int().positive() });

/** What tools/test-report.mjs leaves behind. */
const reportSchema = z.strictObject({
  passed: z.int().nonnegative(),
  failed: z.int().nonnegative(),
  skips: z.array(z.strictObject({ file: z.string(), name: z.string(), reason: z.string() })),
});
type Report = z.infer<typeof reportSchema>;

/** Test files under `arguments_` (files or folders), or all of them; sorted, relative to the repository. */
function findTestFiles(names: readonly string[]): string[] {
  const patterns = (names.length === 0 ? ["test"] : names).map((name) =>
    statSync(path.join(ROOT, name), { throwIfNoEntry: false })?.isDirectory() ? `${name}/**/*.test.ts` : name,
  );
  return globSync(patterns, { cwd: ROOT }).sort();
}

/** Runs the files; resolves to the runner's exit status. Its output goes straight to ours. */
function runNodeTests(files: readonly string[], reportFile: string): Promise<number> {
  const reporter = path.join(ROOT, "tools/test-report.mjs");
  const child = spawn(
    process.execPath,
    [
      "--test",
      `--test-concurrency=${os.availableParallelism()}`,
      `--test-timeout=${TEST_TIMEOUT_MS}`,
      "--test-reporter=spec",
      "--test-reporter-destination=stdout",
      `--test-reporter=${reporter}`,
      `--test-reporter-destination=${reportFile}`,
      ...files,
    ],
    {
      cwd: ROOT,
      stdio: "inherit",
      env: { ...process.env, NODE_COMPILE_CACHE: path.join(ROOT, "node_modules/.cache/compile") },
    },
  );
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve(code ?? 1));
  });
}

function printSkips(report: Report): void {
  const byReason = Map.groupBy(report.skips, (skip) => skip.reason || "no reason given");
  if (byReason.size === 0) return;
  console.log("\nSkipped:");
  for (const [reason, skips] of byReason) {
    const files = [...new Set(skips.map((skip) => path.relative(ROOT, skip.file)))].sort();
    console.log(`  ${skips.length} in ${files.join(", ")}: ${reason}`);
  }
}

/** Compares the count with the floor; returns the problem as a sentence, or undefined. */
function checkFloor(ran: number, raise: boolean): string | undefined {
  const floor = floorSchema.parse(JSON.parse(readFileSync(FLOOR_FILE, "utf8"))).tests;
  if (ran < floor) return `only ${ran} tests ran, test/floor.json demands ${floor}: were test files lost or skipped?`;
  if (raise && ran > floor) {
    writeFileSync(FLOOR_FILE, `${JSON.stringify({ tests: ran })}\n`);
    console.log(`test/floor.json raised from ${floor} to ${ran}`);
  }
  return undefined;
}

async function main(): Promise<void> {
  const names = process.argv.slice(2).filter((name) => name !== "--raise-floor");
  const files = findTestFiles(names);
  const folder = mkdtempSync(path.join(os.tmpdir(), "mergeyard-tests-"));
  try {
    const reportFile = path.join(folder, "report.json");
    const status = files.length === 0 ? 0 : await runNodeTests(files, reportFile);
    const report: Report =
      files.length === 0
        ? { passed: 0, failed: 0, skips: [] }
        : reportSchema.parse(JSON.parse(readFileSync(reportFile, "utf8")));
    const ran = report.passed + report.failed;
    printSkips(report);
    const whole = names.length === 0;
    const problem =
      ran === 0 ? "no tests ran" : whole ? checkFloor(ran, process.argv.includes("--raise-floor")) : undefined;
    console.log(
      `\n${report.passed} passed, ${report.failed} failed, ${report.skips.length} skipped, Node ${process.version}` +
        `${problem === undefined ? "" : `; FAILED: ${problem}`}`,
    );
    process.exitCode = status !== 0 || problem !== undefined ? 1 : 0;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

await main();
