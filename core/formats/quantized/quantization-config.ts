// `quantization_config` of config.json for every container that is written: what transformers, vLLM and the tool whose
// form it is read to know which modules are quantized, and how.
// Source: transformers, utils/quantization_config.py (GPTQConfig, AwqConfig, BitsAndBytesConfig, HqqConfig); vLLM,
// model_executor/layers/quantization (gptq.py, awq.py, bitsandbytes.py, hqq_marlin.py).
import assert from "node:assert/strict";
import { FLOAT_NAMES } from "../../ops/cast.ts";
import type { AwqFolder, BitsandbytesFolder, FolderForm, GptqFolder, HqqFolder } from "../../schemes/folder-form.ts";
import type { ScaleDtype } from "../../tensor.ts";
import { type CompressedGroup, describeCompressed } from "./compressed-tensors-config.ts";

/** Modules of one form, by path. */
export type QuantizedGroup = { readonly form: FolderForm; readonly modules: readonly string[] };

/**
 * The value for a model whose linear modules in layers have these forms, but for those ignored, by path. Only
 * compressed-tensors folders hold several. `dtype` is the one of the weights that stay.
 */
export function describeQuantization(
  groups: readonly QuantizedGroup[],
  ignore: readonly string[],
  dtype: ScaleDtype,
): Record<string, unknown> {
  const compressed = groups.filter(isCompressed);
  if (compressed.length === groups.length) return describeCompressed(compressed, ignore);
  const [only, ...others] = groups.map(({ form }) => form);
  assert.ok(only !== undefined && others.length === 0, "folders of other tools have one form");
  return describeOther(only, ignore, dtype);
}

function isCompressed(group: QuantizedGroup): group is CompressedGroup {
  return group.form.container === "compressed-tensors";
}

function describeOther(form: FolderForm, ignore: readonly string[], dtype: ScaleDtype): Record<string, unknown> {
  assert.ok(form.container !== "compressed-tensors", "described as a group");
  if (form.container === "gptq") return describeGptq(form, ignore);
  if (form.container === "awq") return describeAwq(form, ignore);
  if (form.container === "hqq") return describeHqq(form, ignore);
  return describeBitsandbytes(form, ignore, dtype);
}

const HEAD = "lm_head";

/** Modules outside of layers are never taken for quantized; others are named by rules that leave them out. */
function describeGptq({ bits, group, version }: GptqFolder, ignore: readonly string[]): Record<string, unknown> {
  const rules = ignore
    .filter((module) => module !== HEAD)
    .map((module) => [`-:^${module.replaceAll(/[^\w]/g, "\\$&")}$`, {}] as const);
  return {
    quant_method: "gptq",
    bits,
    group_size: group ?? -1,
    desc_act: false,
    sym: true,
    lm_head: false,
    static_groups: false,
    true_sequential: true,
    checkpoint_format: version === 1 ? "gptq" : "gptq_v2",
    ...(rules.length === 0 ? {} : { dynamic: Object.fromEntries(rules) }),
  };
}

function describeAwq({ group }: AwqFolder, ignore: readonly string[]): Record<string, unknown> {
  return {
    quant_method: "awq",
    bits: 4,
    group_size: group,
    zero_point: true,
    version: "gemm",
    modules_to_not_convert: [...ignore],
  };
}

function describeBitsandbytes(
  { nested }: BitsandbytesFolder,
  ignore: readonly string[],
  dtype: ScaleDtype,
): Record<string, unknown> {
  return {
    quant_method: "bitsandbytes",
    _load_in_4bit: true,
    _load_in_8bit: false,
    load_in_4bit: true,
    load_in_8bit: false,
    bnb_4bit_quant_type: "nf4",
    bnb_4bit_compute_dtype: FLOAT_NAMES[dtype],
    bnb_4bit_quant_storage: "uint8",
    bnb_4bit_use_double_quant: nested !== undefined,
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
    llm_int8_skip_modules: [...ignore],
  };
}

/** Modules are skipped by their place in a layer: hqq's loaders know no layer's own. */
function describeHqq({ bits, group }: HqqFolder, ignore: readonly string[]): Record<string, unknown> {
  const tags = ignore.map((module) => module.split(".").filter(isTag).join("."));
  const weights = { nbits: bits, channel_wise: true, group_size: group, optimize: true, round_zero: false, axis: 1 };
  return {
    quant_method: "hqq",
    quant_config: {
      weight_quant_params: { ...weights, view_as_float: false },
      scale_quant_params: null,
      zero_quant_params: null,
      offload_meta: false,
    },
    skip_modules: [...new Set(tags)],
  };
}

function isTag(part: string): boolean {
  return part !== "model" && part !== "layers" && !/^\d+$/.test(part);
}
