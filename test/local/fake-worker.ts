// A worker for tests of the local Batch: does what FAKE_WORKER says for its array index and attempt, such as
// {"2": ["exit 75", "ok"]}; `ok` when nothing is said. Notes every start in FAKE_LOG.
import { appendFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import * as z from "zod";

const scripts = z.record(z.string(), z.array(z.string())).parse(JSON.parse(process.env.FAKE_WORKER ?? "{}"));
const index = process.env.AWS_BATCH_JOB_ARRAY_INDEX ?? "none";
const attempt = Number(process.env.AWS_BATCH_JOB_ATTEMPT);
const [verb, argument] = (scripts[index]?.[attempt - 1] ?? "ok").split(" ");
const log = process.env.FAKE_LOG;
const note = (word: string): void => {
  if (log !== undefined) appendFileSync(log, `${word} ${index} ${process.pid}\n`);
};
const say = (event: object): void => void process.stdout.write(`${JSON.stringify(event)}\n`);

if (process.env.MERGEYARD_PARENT_PIPE === "1") {
  process.stdin
    .once("close", () => {
      note("orphaned");
      process.exit(75);
    })
    .resume();
}
// Handlers stand before the start is noted: tests send signals as soon as they see it.
if (verb === "polite") {
  process.once("SIGTERM", () => {
    note("stopped");
    process.exit(75);
  });
}
if (verb === "deaf") process.on("SIGTERM", () => note("ignored"));
note("started");
say({ event: "unit-started", unit: 1, stage: process.env.MERGEYARD_STAGE, attempt });
if (verb === "slow") await pause(Number(argument));
if (verb === "hang" || verb === "polite" || verb === "deaf") await pause(600_000);
if (verb === "kill") {
  process.kill(process.pid, argument ?? "SIGKILL");
  await pause(600_000);
}
if (verb === "fail") {
  const error = { code: "YardSourceChanged", meaning: "m", where: { unit: 7 }, hint: "h", retryable: false };
  say({ event: "unit-failed", unit: 7, error });
  process.stderr.write(`${"noise\n".repeat(10_000)}the last line\n`);
  process.exit(Number(argument));
}
if (verb === "print") {
  process.stdout.write("plain text\n{broken\n");
  await new Promise((resolve) => process.stdout.write(`${"x".repeat(3_000_000)}\nno end`, resolve));
}
if (verb === "tell") {
  const { MERGEYARD_THREADS: threads, MERGEYARD_MEMORY_BYTES: memoryBytes } = process.env;
  say({ event: "told", resources: { threads, memoryBytes } });
}
if (verb === "exit") process.exit(Number(argument));
note("done");
process.exit(0);
