// A runner to be killed: submits an array of two to the local Batch and waits.
import { systemClock } from "../../local/asl/clock.ts";
import { createLocalBatch } from "../../local/batch.ts";

const worker = process.argv[2] ?? "";
const batch = createLocalBatch({
  definitions: new Map([["worker", [process.execPath, worker]]]),
  environment: process.env,
  jobs: 2,
  clock: systemClock,
  log: () => undefined,
});
const job = { JobName: "a", JobQueue: "b", JobDefinition: "worker", ArrayProperties: { Size: 2 } };
await batch(job, { signal: new AbortController().signal, heartbeat: () => undefined });
