// The plan of a folder of fewer bits that is made from stored 8-bit integers: which tensors are derived and which are
// copied, shards, headers, index and config, all known from headers. Called by the step that derives.
import type { Checkpoint, TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { describeCompressed } from "../formats/quantized/compressed-tensors-config.ts";
import { planUnitShards, type ShardPlan } from "../formats/safetensors/shard-plan.ts";
import { stringifyPython } from "../json.ts";
import { type Derivation, type LowerBits, planDerivation } from "../schemes/double-rounding.ts";
import type { IntegerScheme } from "../schemes/integers.ts";
import type { Matrix, Part, StoredScheme } from "../schemes/scheme.ts";
import { compareUtf8 } from "../utf8-order.ts";
import { type CopiedTensor, specsOf } from "./compressed-model.ts";
import { listIgnored } from "./linear-modules.ts";
import { partsMatrix } from "./memory.ts";

/** A module's weights as they are stored, and what they become. */
export type DerivedMatrix = {
  readonly kind: "matrix";
  /** Its ranges are those of the stored parts, one after the other. */
  readonly entry: TensorEntry;
  readonly module: string;
  readonly matrix: Matrix;
  readonly stored: StoredScheme;
  readonly derivation: Derivation;
  readonly parts: readonly Part[];
};

export type DerivedModel = ShardPlan & {
  /** In the order in which they are made. */
  readonly units: readonly (DerivedMatrix | CopiedTensor)[];
  readonly scheme: IntegerScheme;
  /** Text of config.json. */
  readonly config: string;
  readonly ignore: readonly string[];
};

/**
 * Plans the folder of a model whose quantized modules are all stored as symmetric INT8 of one form.
 * Throws DeriveSourceUnsupported, and what planning shards throws.
 */
export function planDerivedModel(checkpoint: Checkpoint, bits: LowerBits, maxShardBytes: number): DerivedModel {
  const units = [...checkpoint.tensors]
    .sort((a, b) => compareUtf8(a.name, b.name))
    .map((entry) => (entry.packing === undefined ? ({ kind: "copy", entry } as const) : planMatrix(entry, bits)));
  const matrices = units.filter((unit) => unit.kind === "matrix");
  const [first] = matrices;
  if (first === undefined) throw unsupported({}, `${checkpoint.format} without quantized modules`);
  const { target } = first.derivation;
  const other = matrices.find(({ derivation }) => derivation.target.id !== target.id);
  if (other !== undefined) {
    const found = `scales as in ${other.derivation.target.id}, others as in ${target.id}`;
    throw unsupported({ tensor: other.entry.name }, found, "one form for all modules");
  }
  const shards = planUnitShards(units.map(specsOf), maxShardBytes);
  const ignore = listIgnored(checkpoint, ({ packing }) => packing !== undefined);
  const config = {
    ...checkpoint.config,
    quantization_config: describeCompressed([{ form: target.form, modules: [] }], ignore),
  };
  return { ...shards, units, scheme: target, config: stringifyPython(config), ignore };
}

function planMatrix(entry: TensorEntry, bits: LowerBits): DerivedMatrix {
  const where = { tensor: entry.name };
  const form = entry.packing?.parts;
  if (form?.container !== "compressed-tensors") {
    const other = form?.container ?? `blocks of ${entry.packing?.scheme ?? "rows in another order"}`;
    throw unsupported(where, other);
  }
  const derivation = planDerivation({ ...form, group: form.group, block: form.block }, bits);
  if (derivation === undefined) {
    const zeros = form.symmetric ? "" : " with zero points";
    throw unsupported(where, `${form.format}, ${form.bits} bits of ${form.type}${zeros}`);
  }
  if (form.ordered) throw unsupported(where, "columns in another order (weight_g_idx)", "columns in their order");
  const { scheme: stored, matrix } = partsMatrix(form, entry.shape);
  const module = entry.name.slice(0, entry.name.lastIndexOf("."));
  return { kind: "matrix", entry, module, matrix, stored, derivation, parts: derivation.target.parts(matrix) };
}

function unsupported(where: { tensor?: string }, found: string, expected?: string): MergeyardError {
  return new MergeyardError("DeriveSourceUnsupported", {
    where,
    found,
    expected: expected ?? "a compressed-tensors folder of symmetric INT8",
  });
}
