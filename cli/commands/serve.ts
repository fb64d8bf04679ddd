// `mergeyard serve --yard YARD`: runs the yard's pipelines when uploads are whole and schedules fall due, as the
// deployed triggers do on AWS.
import { type Command, Option } from "commander";
import { MergeyardError } from "../../core/error.ts";
import { type Served, serve } from "../../local/serve.ts";
import { errorRecordSchema } from "../../steps/schemas.ts";
import type { StepEvent } from "../../steps/step.ts";
import {
  jobsOption,
  jobThreadsOption,
  jsonOption,
  memoryOption,
  parseSeconds,
  toUri,
  yardOption,
} from "../arguments.ts";
import { renderError } from "../error-block.ts";
import { describeOutcome, errorOf, toError } from "../run-outcome.ts";
import { createStepDeps } from "../step-deps.ts";
import type { Terminal } from "../terminal.ts";
import { countOf } from "../text.ts";

type Options = {
  readonly yard: string;
  readonly every: number;
  readonly once?: boolean;
  readonly jobs?: number;
  readonly threads?: number;
  readonly memory?: number;
  readonly json?: boolean;
};

export function addServe(program: Command, terminal: Terminal): void {
  program
    .command("serve")
    .description("run the yard's pipelines when their uploads are whole and their schedules fall due")
    .addOption(yardOption())
    .addOption(
      new Option("--every <seconds>", "between two looks; an upload rests as long before it counts")
        .argParser(parseSeconds)
        .default(10),
    )
    .addOption(new Option("--once", "look once, run what is due, and end").conflicts("every"))
    .addOption(jobsOption())
    .addOption(jobThreadsOption())
    .addOption(memoryOption())
    .addOption(jsonOption())
    .action((options: Options) => serveYard(options, terminal));
}

async function serveYard(options: Options, terminal: Terminal): Promise<void> {
  // What runs a state machine is loaded by who needs it.
  const { createLocalRunner } = await import("../local-run.ts");
  const yard = toUri(options.yard, terminal.cwd);
  const json = options.json === true;
  const runner = await createLocalRunner(yard, options, terminal);
  const explain = createExplainer(runner.note);
  const log = (event: StepEvent): void =>
    json ? void terminal.stderr.write(`${JSON.stringify(event)}\n`) : explain(event);
  const ended = ({ pipeline, starts, outcome, unitsEnded }: Served): void => {
    if (outcome.status === "failed") terminal.stderr.write(renderError(toError(outcome), json));
    if (json) terminal.stdout.write(`${JSON.stringify({ pipeline, starts, ...outcome })}\n`);
    else if (outcome.status === "done") terminal.stdout.write(`${describeOutcome(outcome, unitsEnded)}\n`);
  };
  const { every, once = false } = options;
  if (!once) runner.note(`serves ${options.yard}, looks every ${every} s`);
  const failed = await serve(
    { yard, everyMs: every * 1000, once },
    {
      deps: createStepDeps(terminal, runner.openStore, log),
      run: (pipeline) => runner.run(pipeline, {}),
      ended,
    },
  );
  if (failed > 0) {
    throw new MergeyardError("CliServeFailed", { where: { store: yard }, found: countOf(failed, "pipeline") });
  }
}

/** Says what a person should know while it goes on; what every look finds again is said when it changes. */
function createExplainer(say: (text: string) => void): (event: StepEvent) => void {
  const said = new Map<string, string>();
  const sayOnce = (subject: string, text: string): void => {
    if (said.get(subject) !== text) say(text);
    said.set(subject, text);
  };
  return (event) => {
    if (event.event === "start-begun") {
      const names = Array.isArray(event.starts) ? event.starts.join(", ") : "";
      sayOnce(`start ${event.pipeline}`, `start      ${event.pipeline}: ${names}`);
    }
    if (event.event === "start-kept") said.delete("waits");
    if (event.event === "serve-waiting") sayOnce("waits", `waits: ${event.reason}`);
    if (event.event === "upload-incomplete") say(`waits for ${event.prefix}: ${event.reason}`);
    if (event.event === "pipeline-unreadable") {
      sayOnce(String(event.pipeline), renderError(errorOf(errorRecordSchema.parse(event.error)), false).trimEnd());
    }
  };
}
