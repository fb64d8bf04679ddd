// A file that a writer has planned: every byte's place is known, the tensors' bytes are not read yet. Made by the
// writers of torch files, DeepSpeed folders and distributed checkpoints; steps/convert/write-planned.ts follows it.
import type { TargetTensor } from "../universal/box.ts";

export type PlannedSection =
  | { readonly kind: "bytes"; readonly bytes: Uint8Array }
  /** Bytes that the archive sums up by CRC-32: those of one entry. */
  | { readonly kind: "entry"; readonly bytes: Uint8Array }
  | { readonly kind: "tensor"; readonly name: string; readonly tensor: TargetTensor }
  /** Bytes that follow from the CRC-32 of the archive's entries and tensors so far. */
  | { readonly kind: "sums"; readonly bytes: number; encode(crc32s: readonly number[]): Uint8Array };

/** A part of a file with sums of its own. */
export type PlannedArchive = { readonly bytes: number; readonly sections: readonly PlannedSection[] };

export type PlannedFile = {
  readonly name: string;
  readonly bytes: number;
  readonly archives: readonly PlannedArchive[];
};

/** A file whose bytes are known. */
export function plainPlannedFile(name: string, content: Uint8Array | string): PlannedFile {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  const archive: PlannedArchive = { bytes: bytes.length, sections: [{ kind: "bytes", bytes }] };
  return { name, bytes: bytes.length, archives: [archive] };
}
