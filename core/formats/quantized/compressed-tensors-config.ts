// `quantization_config` of a compressed-tensors folder, in config.json: written for the servers that read it (vLLM,
// transformers), and read back from folders of any tool. Which modules are compressed is a list of rules; first the
// ignored ones, then the targets.
// Source: compressed-tensors QuantizationConfig; quantization reference section 4.
import * as z from "zod";
import { MergeyardError } from "../../error.ts";
import { parseAs } from "../../parse-as.ts";
import type { CompressedForm } from "../../schemes/compressed-form.ts";
import { compilePattern, type NamePattern } from "../../universal/name-pattern.ts";
import { unsupportedForm } from "./stored-matrix.ts";

const COMPRESSED_TENSORS = "compressed-tensors" as const;
/** The format of a folder whose groups have several. */
const MIXED = "mixed-precision";

/** Modules of one form, by path. */
export type CompressedGroup = { readonly form: CompressedForm; readonly modules: readonly string[] };

/**
 * The value of `quantization_config`. One group is of all linear modules but those ignored, and needs no names; of
 * several, each lists its modules.
 */
export function describeCompressed(
  groups: readonly CompressedGroup[],
  ignore: readonly string[],
): Record<string, unknown> {
  const formats = new Set(groups.map(({ form }) => form.format));
  const [only] = formats;
  const described = groups.map(({ form, modules }, index) => {
    const targets = groups.length === 1 ? ["Linear"] : [...modules];
    return [`group_${index}`, describeGroup(form, targets)] as const;
  });
  return {
    quant_method: COMPRESSED_TENSORS,
    format: formats.size === 1 ? only : MIXED,
    quantization_status: "compressed",
    global_compression_ratio: null,
    kv_cache_scheme: null,
    ignore: [...ignore],
    config_groups: Object.fromEntries(described),
  };
}

function describeGroup(form: CompressedForm, targets: readonly string[]): Record<string, unknown> {
  const { format, bits, type, symmetric, strategy, group, block, activations } = form;
  const weights = {
    num_bits: bits,
    type,
    symmetric,
    strategy,
    group_size: group ?? null,
    block_structure: block ?? null,
    dynamic: false,
    actorder: null,
    observer: "minmax",
    observer_kwargs: {},
  };
  const inputs = activations === "none" ? null : describeActivations(type, activations);
  return { targets, weights, input_activations: inputs, output_activations: null, format };
}

/** Servers round the inputs of a layer as they come; no scale of them is stored. */
function describeActivations(type: CompressedForm["type"], activations: "token" | "group128") {
  const isGroup = activations === "group128";
  return {
    num_bits: 8,
    type,
    symmetric: true,
    strategy: isGroup ? "group" : "token",
    group_size: isGroup ? 128 : null,
    block_structure: null,
    dynamic: true,
    actorder: null,
    observer: null,
    observer_kwargs: {},
  };
}

const weightsSchema = z.object({
  num_bits: z.int().min(1).max(8),
  type: z.enum(["int", "float"]).default("int"),
  symmetric: z.boolean().default(true),
  strategy: z.enum(["tensor", "channel", "group", "block", "tensor_group"]).nullish(),
  group_size: z.int().nullish(),
  block_structure: z.tuple([z.int().positive(), z.int().positive()]).nullish(),
});

const formatSchema = z.enum([
  "pack-quantized",
  "int-quantized",
  "float-quantized",
  "naive-quantized",
  "nvfp4-pack-quantized",
  "mxfp4-pack-quantized",
]);

const configSchema = z.object({
  quant_method: z.literal(COMPRESSED_TENSORS),
  format: z.string(),
  ignore: z.array(z.string()).nullish(),
  config_groups: z.record(
    z.string(),
    z.object({
      targets: z.array(z.string()),
      weights: weightsSchema.nullish(),
      format: z.string().nullish(),
    }),
  ),
});

/** True of the linear modules that a list of rules names, by path. */
type ModuleRule = (module: string) => boolean;

type CompressedConfig = {
  readonly groups: readonly { readonly isTarget: ModuleRule; readonly form: CompressedForm }[];
  readonly isIgnored: ModuleRule;
};

/**
 * What a config of compressed-tensors says.
 * Throws QuantizedFolderUnsupported for a format that cannot be read, or a description without sense.
 */
export function parseCompressedConfig(value: unknown): CompressedConfig {
  const { config_groups, ignore, format } = parseAs(configSchema, value, (field, found) =>
    unsupported(`quantization_config.${field}`, found),
  );
  const groups = Object.entries(config_groups).flatMap(([name, { targets, weights, format: own }]) => {
    if (weights === null || weights === undefined) return [];
    const isTarget = targets.includes("Linear") ? () => true : compileRules(targets);
    return [{ isTarget, form: formOf(`quantization_config.config_groups.${name}`, own ?? format, weights) }];
  });
  return { groups, isIgnored: compileRules(ignore ?? []) };
}

function formOf(field: string, format: string, weights: z.output<typeof weightsSchema>): CompressedForm {
  const known = formatSchema.safeParse(format).data;
  if (known === undefined) throw unsupported(`${field}.format`, format);
  const { num_bits: bits, type, symmetric, strategy, group_size: group, block_structure: block } = weights;
  const implied = group === null || group === undefined ? "tensor" : group === -1 ? "channel" : "group";
  return {
    container: COMPRESSED_TENSORS,
    // Naive is the older name of both one-byte formats.
    format: known === "naive-quantized" ? (type === "int" ? "int-quantized" : "float-quantized") : known,
    bits,
    type,
    symmetric,
    strategy: strategy ?? implied,
    group: group === -1 ? undefined : (group ?? undefined),
    block: block ?? undefined,
    activations: "none",
  };
}

function unsupported(field: string, found: string): MergeyardError {
  return unsupportedForm(field, found, `one of ${formatSchema.options.join(", ")} with weights it can hold`);
}

/** The form of a linear module by its path; undefined when it is ignored or no target. */
export function findForm({ groups, isIgnored }: CompressedConfig, module: string): CompressedForm | undefined {
  return isIgnored(module) ? undefined : groups.find(({ isTarget }) => isTarget(module))?.form;
}

/**
 * Rules name a path, or are `re:` and a regular expression that matches at a path's start; what names a class of
 * modules names none of these. They come from any folder's config, so they are of the subset that takes linear time.
 * Throws QuantizedFolderUnsupported for other expressions.
 */
export function compileRules(rules: readonly string[]): ModuleRule {
  const isPattern = (rule: string): boolean => rule.startsWith("re:");
  const paths = new Set(rules.filter((rule) => !isPattern(rule)));
  const patterns = rules.filter(isPattern).map(compileRule);
  return (module) => paths.has(module) || patterns.some((pattern) => pattern.matches(module));
}

function compileRule(rule: string): NamePattern {
  try {
    return compilePattern(rule.slice("re:".length));
  } catch (error) {
    if (!(error instanceof MergeyardError)) throw error;
    throw unsupportedForm("quantization_config", rule.slice(0, 200), error.expected ?? "a plain regular expression");
  }
}
