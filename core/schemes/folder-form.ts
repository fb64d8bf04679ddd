// How a folder of quantized weights describes what its modules hold, by the tool whose form it is. Schemes that a
// folder can hold declare theirs; folder-scheme.ts turns a description back into what reads the values.
import type { ScaleDtype } from "../tensor.ts";
import type { CompressedForm } from "./compressed-form.ts";

/** Source: GPTQModel, nn_modules/qlinear; AutoGPTQ. Zero points of version 1 are stored minus one. */
export type GptqFolder = {
  readonly container: "gptq";
  readonly bits: 2 | 3 | 4 | 8;
  /** Undefined: one scale for a channel. */
  readonly group?: number | undefined;
  readonly version: 1 | 2;
};

/** Source: AutoAWQ, modules/linear/gemm.py; 4 bits. */
export type AwqFolder = { readonly container: "awq"; readonly group: number };

/** Source: bitsandbytes, functional.py: QuantState. Codes of 4 bits into a table that each module stores. */
export type BitsandbytesFolder = {
  readonly container: "bitsandbytes";
  readonly block: number;
  /** Where scales are bytes themselves: into a second table, scaled for this many, less `offset`. */
  readonly nested?: { readonly block: number; readonly offset: number } | undefined;
};

/** Source: bitsandbytes, nn/modules.py: Linear8bitLt. Bytes under a scale for a channel; read only. */
export type LlmInt8Folder = { readonly container: "bitsandbytes-int8" };

/** Source: hqq, core/quantize.py: HQQLinear.state_dict. */
export type HqqFolder = {
  readonly container: "hqq";
  readonly bits: 2 | 3 | 4 | 8;
  readonly group: number;
  /** Of scales and zero points. */
  readonly stored: ScaleDtype;
  /** 0: a group is a column of the flat values as [group, any], read only. Absent: it is a run of a row (axis 1). */
  readonly axis?: 0 | undefined;
};

export type OtherFolder = GptqFolder | AwqFolder | BitsandbytesFolder | HqqFolder;

/** Every form that is read; those of other tools that are written too are the ones above. */
export type StoredFolder = OtherFolder | LlmInt8Folder;

export type FolderForm = CompressedForm | OtherFolder;

/** Rows that a module has a multiple of, by container: words that loaders unpack run down the rows. */
export const FOLDER_ROWS: Readonly<Record<FolderForm["container"], number>> = {
  "compressed-tensors": 1,
  gptq: 32,
  awq: 8,
  bitsandbytes: 1,
  hqq: 4,
};
