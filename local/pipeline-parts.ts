// The real parts of a local run: the steps as functions, and the worker as a child process of this Node.
import { fileURLToPath } from "node:url";
import type { Signer } from "../core/artifact/attestation.ts";
import { checkStep } from "../steps/check.ts";
import { notifyStep } from "../steps/notify.ts";
import { planStep } from "../steps/plan.ts";
import { publishStep } from "../steps/publish.ts";
import { recordFailureStep } from "../steps/record-failure.ts";
import { runStep } from "../steps/step.ts";
import type { OpenStore } from "../stores/store.ts";
import type { PipelineParts } from "./run-pipeline.ts";

/** Where Node keeps the compiled sources between starts: a worker starts in a third of the processor time. */
const COMPILE_CACHE = new URL("../node_modules/.cache/compile", import.meta.url);

/** `worker` is the worker's program. `signer` signs what is published; nothing is signed without one. */
export function pipelineParts(openStore: OpenStore, worker: URL, signer?: Signer | undefined): PipelineParts {
  return {
    openStore,
    functions: {
      plan: (payload, deps) => runStep(planStep, payload, deps),
      check: (payload, deps) => runStep(checkStep, payload, deps),
      publish: (payload, deps) => runStep(publishStep, payload, { ...deps, signer }),
      notify: (payload, deps) => runStep(notifyStep, payload, deps),
      recordFailure: (payload, deps) => runStep(recordFailureStep, payload, deps),
    },
    worker: [process.execPath, fileURLToPath(worker)],
    workerEnvironment: { NODE_COMPILE_CACHE: fileURLToPath(COMPILE_CACHE) },
  };
}
