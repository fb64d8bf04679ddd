// A runner to be killed: runs the pipeline `small` of the yard that its first argument names, and prints every event as
// a line of JSON, the outcome last. At the event of its second argument, the n-th of that name by its third, it kills
// itself; with `worker-started` and a fourth argument, that worker instead.
import { pipelineParts } from "../../local/pipeline-parts.ts";
import { runPipeline } from "../../local/run-pipeline.ts";
import type { StepEvent } from "../../steps/step.ts";
import { createStoreOpener } from "../../stores/open.ts";

const openStore = createStoreOpener(process.env);
const yard = openStore(process.argv[2] ?? "").uri;
const print = (event: object): void => void process.stdout.write(`${JSON.stringify(event)}\n`);
const [, , , fatalEvent, fatalCount, isWorker] = process.argv;
let seen = 0;
const onEvent = (event: StepEvent): void => {
  print(event);
  if (event.event !== fatalEvent) return;
  seen += 1;
  if (seen === Number(fatalCount)) process.kill(isWorker === undefined ? process.pid : Number(event.pid), "SIGKILL");
};
const outcome = await runPipeline(
  {
    yard,
    pipeline: { store: yard, key: "pipelines/small.yaml" },
    jobs: 2,
    threads: 1,
    memoryBytes: 256 * 1024 * 1024,
    shardBytes: 400,
    environment: process.env,
    signal: new AbortController().signal,
    onEvent,
  },
  pipelineParts(openStore, new URL("../../workers/main.ts", import.meta.url)),
);
print({ event: "outcome", outcome });
