// A runner to be killed: runs the pipeline `small` of the yard that its argument names, and prints every event as a
// line of JSON, the outcome last.
import { pipelineParts } from "../../local/pipeline-parts.ts";
import { runPipeline } from "../../local/run-pipeline.ts";
import { createStoreOpener } from "../../stores/open.ts";

const openStore = createStoreOpener(process.env);
const yard = openStore(process.argv[2] ?? "").uri;
const print = (event: object): void => void process.stdout.write(`${JSON.stringify(event)}\n`);
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
    onEvent: print,
  },
  pipelineParts(openStore),
);
print({ event: "outcome", outcome });
