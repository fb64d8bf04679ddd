// The small files of an output as other outputs of the same merge need them at plan time: config.json, the tokenizer.
import { MergeyardError } from "../error.ts";
import { parseJsonDocument } from "../formats/json-scan.ts";
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
  if (bytes === undefined) return undefined;
  const value = parseJsonDocument(bytes, {
    pythonNumbers: true,
    refuse: ({ offset, found, expected }) =>
      new MergeyardError("PlanDocumentInvalid", { where: { file: name, offset }, found, expected }),
  });
  return typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : undefined;
}
