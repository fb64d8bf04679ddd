// `mergeyard push DIR MODEL --yard YARD`: uploads a checkpoint as it is now, or with --watch every step that a training
// job finishes. Killed or interrupted, the same command goes on where it was.
import { fileURLToPath } from "node:url";
import type { Command } from "commander";
import { Option } from "commander";
import { MergeyardError } from "../../core/error.ts";
import type { PushOutput } from "../../steps/push/push.ts";
import { pushStep } from "../../steps/push/push.ts";
import { watchSteps } from "../../steps/push/watch-steps.ts";
import { runStep, type StepEvent } from "../../steps/step.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { jsonOption, parseSeconds, parseWhole, refuseGiven, toUri, yardOption } from "../arguments.ts";
import { createProgress, type Progress } from "../progress.ts";
import { createStepDeps } from "../step-deps.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, formatBytes } from "../text.ts";

type Options = {
  readonly yard: string;
  readonly upload?: string;
  readonly rank: number;
  readonly ranks: number;
  readonly watch?: boolean;
  readonly every?: number;
  readonly json?: boolean;
};

const EVERY_SECONDS = 10;

export function addPush(program: Command, terminal: Terminal): void {
  program
    .command("push")
    .description("upload a checkpoint, resumable; the yard sees it when it is whole")
    .argument("<dir>", "a checkpoint's folder; with --watch the folder in which a training job makes a folder a step")
    .argument("<model>", "the model that it is an upload of")
    .addOption(yardOption())
    .option("--upload <name>", "name of the upload (default: of the folder and its contents)")
    .addOption(new Option("--rank <r>", "this process's number, from 0").argParser(parseWhole).default(0))
    .addOption(
      new Option("--ranks <n>", "processes that push to one upload, each its own files")
        .argParser(parseWhole)
        .default(1),
    )
    .addOption(new Option("--watch", "follow a training job, and push each step that it finishes").conflicts("upload"))
    .addOption(
      new Option(
        "--every <seconds>",
        `with --watch: between two looks; a step rests as long before it is pushed (default: ${EVERY_SECONDS})`,
      ).argParser(parseSeconds),
    )
    .addOption(jsonOption())
    .action((folder: string, model: string, options: Options) => {
      if (options.watch !== true) refuseGiven({ "--every": options.every }, { expected: "--watch" });
      return push(folder, model, options, terminal);
    });
}

async function push(folder: string, model: string, options: Options, terminal: Terminal): Promise<void> {
  const { rank, ranks } = options;
  if (ranks < 1 || rank >= ranks) throw new MergeyardError("CliUsage", { found: `rank ${rank} of ${ranks}` });
  const openStore = createStoreOpener(terminal.env);
  const progress = createProgress(terminal, { silent: options.json === true });
  const deps = {
    ...createStepDeps(terminal, openStore, (event) => explain(event, progress)),
    progress: ({ bytesRead }: { bytesRead: number }) => progress.update(bytesRead),
  };
  const place = { yard: toUri(options.yard, terminal.cwd), source: toUri(folder, terminal.cwd), model };
  progress.begin("push", 0);
  try {
    if (options.watch === true) {
      const pushed = (result: PushOutput) =>
        options.json === true
          ? terminal.stdout.write(`${JSON.stringify(result)}\n`)
          : progress.note(describe(result, toFolder(result.source)));
      await watchSteps({ ...place, rank, ranks, everyMs: (options.every ?? EVERY_SECONDS) * 1000 }, deps, pushed);
    } else {
      const upload = options.upload === undefined ? {} : { upload: options.upload };
      const result = await runStep(pushStep, { ...place, ...upload, rank, ranks }, deps);
      progress.end();
      printResult(terminal, options.json, result, () => describe(result, folder));
    }
  } finally {
    progress.end();
  }
}

/** What a person should know while it goes on. */
function explain(event: StepEvent, progress: Progress): void {
  if (event.event === "manifest-set-aside") {
    const files = Array.isArray(event.changed) ? event.changed.join(", ") : "";
    progress.note(`warning: manifest.json stays behind: ${files} changed since ${event.model}@${event.version}`);
  }
  if (event.event === "weights-unread") {
    const files = Array.isArray(event.files) ? event.files.join(", ") : "";
    progress.note(`warning: ${files} will be uploaded and never read: other weights of the folder are the model`);
  }
  if (event.event === "step-waiting") progress.note(`${event.step} waits: ${event.reason}`);
  if (event.event === "step-removed") progress.note(`${event.step} was pushed, and gc has removed it: passed over`);
}

/** A folder of this machine by its path, as people write it. */
function toFolder(uri: string): string {
  return uri.startsWith("file:") ? fileURLToPath(uri) : uri;
}

function describe(result: PushOutput, folder: string): string {
  const { model, upload, files, bytes, sentBytes, outcome } = result;
  const what = `${countOf(files, "file")}, ${formatBytes(bytes)}`;
  const sent = sentBytes === bytes ? "" : ` (${formatBytes(sentBytes)} of them now)`;
  if (outcome === "present") return `${folder} is incoming/${model}/${upload} already: ${what}`;
  if (outcome === "waiting") return `pushed this rank's files of incoming/${model}/${upload}: ${what}${sent}`;
  return `pushed ${folder} as incoming/${model}/${upload}: ${what}${sent}`;
}
