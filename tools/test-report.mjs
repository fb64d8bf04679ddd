// A reporter for Node's test runner: counts leaf tests and keeps the skips with their reasons, as JSON for
// run-tests.ts.
// Suites are not counted: a suite whose every test is skipped must not pass for a test that ran.

/** @param {AsyncIterable<{ type: string, data: any }>} events */
export default async function* report(events) {
  const counts = { passed: 0, failed: 0, skips: [] };
  for await (const { type, data } of events) {
    if (type !== "test:pass" && type !== "test:fail") continue;
    if (data.skip !== undefined) {
      counts.skips.push({
        file: data.file ?? "",
        name: data.name,
        reason: typeof data.skip === "string" ? data.skip : "",
      });
    } else if (data.details?.type !== "suite" || type === "test:fail") {
      if (type === "test:pass") counts.passed += 1;
      else counts.failed += 1;
    }
  }
  yield JSON.stringify(counts);
}
