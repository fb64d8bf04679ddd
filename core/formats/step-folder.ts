// The folders that trainers write for each step, by name: which step it is, and what says that the trainer has finished
// it. Who pushes a training job's folder as it grows reads this; the formats themselves judge by contents.
// Source: reference checkpoint-formats.md section 3.1, and Hugging Face's Trainer, which writes its state last.

type StepKind = {
  readonly pattern: RegExp;
  /** File beside the folders that names the newest finished one; written after all ranks' files. */
  readonly pointer?: string;
  /** File inside the folder that the trainer writes after all others. */
  readonly lastFile?: string;
};

const STEP_KINDS: readonly StepKind[] = Object.freeze([
  { pattern: /^global_step(\d{1,15})$/, pointer: "latest" },
  { pattern: /^checkpoint-(\d{1,15})$/, lastFile: "trainer_state.json" },
  { pattern: /^(?:step|iter|epoch)[-_]?(\d{1,15})$/ },
]);

export type StepFolder = {
  /** Name without a slash. */
  readonly folder: string;
  readonly step: number;
  readonly pointer: string | undefined;
  readonly lastFile: string | undefined;
};

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
 * What a step is still waiting for; undefined when the trainer's own marks say that it is finished. `names` are the
 * files inside the folder, `pointed` the step that the pointer file names, if there is one.
 */
export function whyUnfinished(
  { folder, step, pointer, lastFile }: StepFolder,
  names: readonly string[],
  pointed: string | undefined,
): string | undefined {
  if (lastFile !== undefined && !names.includes(lastFile)) return `${lastFile} is not there yet`;
  if (pointer === undefined || pointed === folder) return undefined;
  const newest = pointed === undefined ? undefined : parseStepFolder(pointed)?.step;
  return newest !== undefined && newest > step ? undefined : `${pointer} does not name it yet`;
}
