// The folders that trainers write for each step, by name: which step it is, and what says that the trainer has finished
// it. Who pushes a training job's folder as it grows reads this; the formats themselves judge by contents.
// Source: reference checkpoint-formats.md sections 3.1, 6.2, and Hugging Face's Trainer, which writes its state last.

/** A file beside the folders that names the newest finished step; written after all ranks' files of it. */
export type StepPointer = {
  readonly file: string;
  /** False where other trainers give folders the same names, and write no such file. */
  readonly isAlways: boolean;
  /** What it holds when it names a step. */
  textOf(step: Pick<StepFolder, "folder" | "step">): string;
  /** The step that it names; undefined for a text that names none. */
  stepOf(text: string): number | undefined;
};

type StepKind = {
  readonly pattern: RegExp;
  readonly pointer?: StepPointer;
  /** File inside the folder that the trainer writes after all others. */
  readonly lastFile?: string;
};

export type StepFolder = {
  /** Name without a slash. */
  readonly folder: string;
  readonly step: number;
  readonly pointer: StepPointer | undefined;
  readonly lastFile: string | undefined;
};

const LATEST: StepPointer = Object.freeze({
  file: "latest",
  isAlways: true,
  textOf: ({ folder }: Pick<StepFolder, "folder">) => folder,
  stepOf: (text: string) => parseStepFolder(text)?.step,
});

const MEGATRON_TRACKER: StepPointer = Object.freeze({
  file: "latest_checkpointed_iteration.txt",
  isAlways: false,
  textOf: ({ step }: Pick<StepFolder, "step">) => String(step),
  stepOf: (text: string) => (/^\d{1,15}$/.test(text) ? Number(text) : undefined),
});

const STEP_KINDS: readonly StepKind[] = Object.freeze([
  { pattern: /^global_step(\d{1,15})$/, pointer: LATEST },
  { pattern: /^checkpoint-(\d{1,15})$/, lastFile: "trainer_state.json" },
  { pattern: /^iter_(\d{1,15})$/, pointer: MEGATRON_TRACKER },
  { pattern: /^(?:step|iter|epoch)[-_]?(\d{1,15})$/ },
]);

/** The step that a folder is named after; undefined for any other name. */
export function parseStepFolder(folder: string): StepFolder | undefined {
  for (const { pattern, pointer, lastFile } of STEP_KINDS) {
    const step = pattern.exec(folder)?.[1];
    if (step !== undefined) return { folder, step: Number(step), pointer, lastFile };
  }
  return undefined;
}

/** The step folders that hold any of the files, by rising step. */
export function findStepFolders(names: readonly string[]): readonly StepFolder[] {
  const folders = new Set(names.flatMap((name) => (name.includes("/") ? [name.slice(0, name.indexOf("/"))] : [])));
  return [...folders].flatMap((folder) => parseStepFolder(folder) ?? []).sort((a, b) => a.step - b.step);
}

/**
 * What a step is still waiting for; undefined when the trainer's own marks say that it is finished, or when it makes
 * none. `names` are the files inside the folder, `pointed` is the text of the pointer file, if there is one.
 */
export function whyUnfinished(
  { step, pointer, lastFile }: StepFolder,
  names: readonly string[],
  pointed: string | undefined,
): string | undefined {
  if (lastFile !== undefined && !names.includes(lastFile)) return `${lastFile} is not there yet`;
  if (pointer === undefined || (pointed === undefined && !pointer.isAlways)) return undefined;
  const newest = pointed === undefined ? undefined : pointer.stepOf(pointed);
  return newest !== undefined && newest >= step ? undefined : `${pointer.file} does not name it yet`;
}
