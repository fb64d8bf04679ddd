// A size that a quantized model must not exceed, as users write it: bits a weight ("4.5bpw") or bytes ("4.2GB").
import { MergeyardError } from "../error.ts";

const FORM = /^(\d+(?:\.\d+)?)\s*(bpw|B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$/i;
const UNIT_BYTES: Readonly<Record<string, number>> = {
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
};

export type Budget = {
  readonly bytes: number;
  /** bits: the bytes are those of all tensors, vectors too; bytes: of the whole file. */
  readonly of: "bits" | "bytes";
};

/** The budget of a model of `elements` weights, rounded down to whole bytes. Throws BitPlanInvalid. */
export function parseBudget(text: string, elements: number): Budget {
  const [, number, unit = ""] = FORM.exec(text.trim()) ?? [];
  const value = Number(number);
  if (number === undefined || !(value > 0)) {
    const expected = "bits a weight (4.5bpw) or a size (4.2GB, 900MiB)";
    throw new MergeyardError("BitPlanInvalid", { where: { field: "budget" }, found: text, expected });
  }
  const name = unit.toLowerCase();
  if (name === "bpw") return { bytes: Math.floor((value * elements) / 8), of: "bits" };
  return { bytes: Math.floor(value * (UNIT_BYTES[name] ?? 1)), of: "bytes" };
}
