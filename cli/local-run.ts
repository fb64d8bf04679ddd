// Runs of pipelines on this machine as a person follows them: `run` makes one, `serve` one after the other.
import { MEMORY_BYTES_DEFAULT } from "../core/plan/defaults.ts";
import { pipelineParts } from "../local/pipeline-parts.ts";
import { type PipelineOutcome, type PipelineRun, runPipeline } from "../local/run-pipeline.ts";
import { openSigner } from "../signing/open-signer.ts";
import { readPlan } from "../steps/plan-file.ts";
import type { StepEvent } from "../steps/step.ts";
import { createStoreOpener } from "../stores/open.ts";
import type { OpenStore } from "../stores/store.ts";
import { defaultJobs, defaultJobThreads } from "./arguments.ts";
import { createProgress } from "./progress.ts";
import { createRunReport } from "./run-report.ts";
import type { Terminal } from "./terminal.ts";

/** What the options of both commands say. */
type Options = {
  readonly jobs?: number;
  readonly threads?: number;
  readonly memory?: number;
  readonly json?: boolean;
};

/** What a job of a local run executes. */
const WORKER = new URL("../workers/main.ts", import.meta.url);

export type LocalRunner = {
  readonly openStore: OpenStore;
  /** Prints a line about what happens. */
  readonly note: (text: string) => void;
  /** `unitsEnded`: during this run; 0: there was nothing to do. */
  run(
    pipeline: PipelineRun["pipeline"],
    scope: Pick<PipelineRun, "models" | "folder">,
  ): Promise<{ readonly outcome: PipelineOutcome; readonly unitsEnded: number }>;
};

/** `yard` is its URI. Throws SigningKeyInvalid before anything begins, not at its end. */
export async function createLocalRunner(yard: string, options: Options, terminal: Terminal): Promise<LocalRunner> {
  const openStore = createStoreOpener(terminal.env);
  const parts = pipelineParts(openStore, WORKER, await openSigner(terminal.env));
  const progress = createProgress(terminal, { silent: options.json === true });
  return {
    openStore,
    note: progress.note,
    async run(pipeline, scope) {
      const report = createRunReport(progress);
      const onEvent = (event: StepEvent): void => {
        if (options.json === true) terminal.stderr.write(`${JSON.stringify(event)}\n`);
        report.handle(event);
        if (event.event === "attempt-opened") {
          // Only the progress line waits for this; a plan that cannot be read fails the run itself.
          readStageBytes(openStore, yard, String(event.run), terminal.signal).then(report.setStages, () => undefined);
        }
      };
      const outcome = await runPipeline(
        {
          yard,
          pipeline,
          ...scope,
          jobs: options.jobs ?? defaultJobs(),
          threads: options.threads ?? defaultJobThreads(),
          memoryBytes: options.memory ?? MEMORY_BYTES_DEFAULT,
          environment: terminal.env,
          signal: terminal.signal,
          onEvent,
        },
        parts,
      ).finally(() => progress.end());
      return { outcome, unitsEnded: report.unitsEnded() };
    },
  };
}

async function readStageBytes(
  openStore: OpenStore,
  yard: string,
  run: string,
  signal: AbortSignal,
): Promise<ReadonlyMap<string, number>> {
  const { header } = await readPlan(openStore(yard), run, signal);
  return new Map(header.stages.map(({ name, bytesRead, bytesWritten }) => [name, bytesRead + bytesWritten]));
}
