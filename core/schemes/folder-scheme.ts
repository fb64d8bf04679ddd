// What reads the values of a folder's modules, by how the folder describes them. Called by whatever opens such folders
// and reads their weights.
import { storedAwq } from "./awq.ts";
import type { StoredFolder } from "./folder-form.ts";
import { storedGptq } from "./gptq.ts";
import { storedHqq } from "./hqq.ts";
import { LLM_INT8 } from "./llm-int8.ts";
import { storedBitsandbytes } from "./nf4.ts";
import type { StoredScheme } from "./scheme.ts";

/** Its parts are those that hold values; what else a folder stores of a module says what the form says. */
export function folderScheme(form: StoredFolder): StoredScheme {
  if (form.container === "gptq") return storedGptq(form);
  if (form.container === "awq") return storedAwq(form);
  if (form.container === "hqq") return storedHqq(form);
  return form.container === "bitsandbytes" ? storedBitsandbytes(form) : LLM_INT8;
}
