// Following a training job: looks at its folder again and again, and pushes each step when the trainer has finished it,
// the oldest first, while training goes on. It keeps nothing itself: what is pushed already, the yard says, so that it
// may be killed and started again, anywhere.
//
// A step is finished when its trainer's own mark says so (the pointer file names it or a later one, or the file that
// the trainer writes last is there), its files open as a whole checkpoint, and two looks found them the same. One that
// changes or disappears while it is pushed leaves nothing in the yard, and is looked at again.
import { checkName } from "../../core/artifact/key.ts";
import { hasCode, MergeyardError } from "../../core/error.ts";
import { findStepFolders, type StepFolder, whyUnfinished } from "../../core/formats/step-folder.ts";
import type { ObjectInfo, ObjectStore } from "../../stores/store.ts";
import { fingerprintFiles } from "../open-checkpoint.ts";
import { pause } from "../pause.ts";
import type { StepDeps } from "../step.ts";
import { openYard } from "../yard.ts";
import type { PushOutput } from "./push.ts";
import { pushStepFolder } from "./push.ts";
import { listVisible, readPointer } from "./upload-snapshot.ts";

export type WatchInput = {
  readonly yard: string;
  readonly source: string;
  readonly model: string;
  readonly rank: number;
  readonly ranks: number;
  /** Between two looks. */
  readonly everyMs: number;
};

/** What was seen of a step at the last look, what was pushed of it, and why the last push of it did not end. */
type Seen = {
  readonly fingerprint: string;
  readonly reason: string | undefined;
  pushed: string | undefined;
  trouble: string | undefined;
};

/**
 * Pushes steps until it is aborted; `pushed` is told of each. Throws what a push throws, but for a step that is not
 * whole or changes, and for what may pass, such as a network that is down: the next look tries again, and each new
 * reason is logged as `step-waiting`.
 */
export async function watchSteps(
  input: WatchInput,
  deps: StepDeps,
  pushed: (result: PushOutput) => void,
): Promise<never> {
  const yard = await openYard(deps.openStore, input.yard);
  const source = deps.openStore(input.source);
  const seen = new Map<string, Seen>();
  checkName(input.model);
  for (;;) {
    for (const ready of await look(source, seen, deps)) {
      const result = await tryPush(yard, source, ready, input, deps);
      const state = seen.get(ready.folder);
      const trouble = typeof result === "string" ? result : undefined;
      if (result === undefined) deps.log({ event: "step-removed", step: ready.folder });
      if (trouble !== undefined && trouble !== state?.trouble) wait(ready, trouble, deps);
      if (state !== undefined) {
        state.pushed = trouble === undefined ? state.fingerprint : undefined;
        state.trouble = trouble;
      }
      if (typeof result === "object") pushed({ ...result, source: `${source.uri}/${ready.folder}` });
    }
    await pause(input.everyMs, deps.signal);
  }
}

/** The steps that may be pushed now, by rising step. */
async function look(source: ObjectStore, seen: Map<string, Seen>, deps: StepDeps): Promise<readonly StepFolder[]> {
  const infos = await listVisible(source, "", deps.signal);
  const steps = findStepFolders(infos.map(({ key }) => key));
  for (const folder of seen.keys()) if (!steps.some((step) => step.folder === folder)) seen.delete(folder);
  const ready: StepFolder[] = [];
  for (const step of steps) {
    const inside = infos.filter(({ key }) => key.startsWith(`${step.folder}/`));
    const pointed = step.pointer && (await readPointer(source, infos, step.pointer.file, deps.signal));
    const names = inside.map(({ key }) => key.slice(step.folder.length + 1));
    const fingerprint = fingerprintInfos(inside);
    const before = seen.get(step.folder);
    const unfinished = whyUnfinished(step, names, pointed);
    if (unfinished !== undefined && before?.reason !== unfinished) wait(step, unfinished, deps);
    const isQuiet = before?.fingerprint === fingerprint;
    if (unfinished === undefined && isQuiet && before?.pushed !== fingerprint) ready.push(step);
    seen.set(step.folder, { fingerprint, pushed: before?.pushed, reason: unfinished, trouble: before?.trouble });
  }
  return ready;
}

function fingerprintInfos(infos: readonly ObjectInfo[]): string {
  return fingerprintFiles(infos.map(({ key, bytes, etag }) => ({ name: key, bytes, etag })));
}

function wait({ folder }: StepFolder, reason: string, deps: StepDeps): void {
  deps.log({ event: "step-waiting", step: folder, reason });
}

/**
 * What was pushed; or why nothing was, when the step is not whole yet, changed meanwhile, or a store is silent.
 * Undefined for a step whose upload `gc` has removed: it had been pushed.
 */
async function tryPush(
  yard: ObjectStore,
  source: ObjectStore,
  step: StepFolder,
  { model, rank, ranks }: WatchInput,
  deps: StepDeps,
) {
  try {
    return await pushStepFolder(yard, source, step, { model, upload: undefined, rank, ranks }, deps);
  } catch (cause) {
    deps.signal.throwIfAborted();
    if (hasCode(cause, "UploadRemoved")) return undefined;
    if (!(cause instanceof MergeyardError) || !(cause.retryable || cause.where.store === source.uri)) throw cause;
    return `${cause.code}: ${cause.found ?? cause.message}`;
  }
}
