// A small universal checkpoint with optimizer states, made without any reader: what conversions of training checkpoints
// are tested with.
import { encodeUniversal } from "../../core/artifact/universal.ts";
import type { JsonObject } from "../../core/json.ts";
import type { Dtype, Shape } from "../../core/tensor.ts";
import { gatherWhole } from "../../core/universal/box.ts";
import type { ConversionParameter } from "../../core/universal/conversion.ts";
import { describeConverted } from "../../core/universal/convert-plan.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { makeTensorFile } from "../core/artifact/parts.ts";
import { newStore } from "./deps.ts";

export type ModelParameter = {
  readonly name: string;
  readonly shape: Shape;
  readonly pattern: ConversionParameter["pattern"];
  readonly dtype?: Dtype;
  readonly paddedRows?: number | undefined;
  /** False for frozen weights and buffers. */
  readonly isTrained?: boolean;
};

/** The model as step 7 of a run; `client` is what its trainer saved beside the weights. */
export async function putTraining(model: readonly ModelParameter[], client: JsonObject = {}): Promise<ObjectStore> {
  const store = newStore();
  const parameters = model.map(({ name, shape, pattern, dtype = "F32", paddedRows, isTrained = true }) => {
    const state = { dtype: "F32" as const, gather: gatherWhole([], shape) };
    const training = isTrained ? { step: 7, states: { exp_avg: state, exp_avg_sq: state } } : undefined;
    return { name, shape, pattern, dtype, gather: state.gather, paddedRows, aliases: [], training };
  });
  const trained = model.filter(({ isTrained = true }) => isTrained);
  const files = [
    makeTensorFile(
      "model.safetensors",
      model.map(({ name, shape, dtype = "F32" }) => ({ name, dtype, shape })),
    ),
    ...["exp_avg", "exp_avg_sq"].map((kind, seed) =>
      makeTensorFile(
        `${kind}.safetensors`,
        trained.map(({ name, shape }) => ({ name, dtype: "F32" as const, shape })),
        seed + 1,
      ),
    ),
  ];
  for (const { listing, bytes } of files) await writeBytes(store, listing.name, bytes);
  const training = { weights: "BF16" as const, groups: [], optimizer: {}, client };
  const source = { checkpoint: { format: "universal", tensorFiles: [] }, training };
  const listings = files.map(({ listing }) => listing);
  await store.create("universal.json", encodeUniversal(describeConverted(source, parameters, listings, [])));
  return store;
}
