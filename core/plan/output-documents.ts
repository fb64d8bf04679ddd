// The small files of an output as other outputs of the same merge need them at plan time: config.json, the tokenizer.
import { parseObject } from "./documents.ts";
import type { MergeModel } from "./merge-task.ts";
import { type SideFile, writtenBytes } from "./schema.ts";

export type OutputDocuments = {
  readonly sideFiles: readonly SideFile[];
  /** Their `source` counts in these. */
  readonly models: readonly MergeModel[];
};

/** A small file of the output: text that the plan wrote, or a document of a model. */
export function outputDocument({ sideFiles, models }: OutputDocuments, name: string): Uint8Array | undefined {
  const file = sideFiles.find((each) => each.name === name);
  if (file === undefined) return undefined;
  if (file.from === "text") return writtenBytes(file);
  return models[file.source]?.documents?.get(file.file);
}

/** The same of JSON that holds an object. Throws PlanDocumentInvalid. */
export function outputObject(parts: OutputDocuments, name: string): Readonly<Record<string, unknown>> | undefined {
  const bytes = outputDocument(parts, name);
  return bytes === undefined ? undefined : parseObject(bytes, { file: name });
}
