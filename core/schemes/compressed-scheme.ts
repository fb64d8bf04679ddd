// The scheme that a description in a compressed-tensors folder means, whether or not it has an id of ours: folders of
// other tools hold any group and block. Called by the reader of such folders.
import type { CompressedForm } from "./compressed-form.ts";
import { mxfp4a16, nvfp4a16 } from "./float4.ts";
import { float8 } from "./float8.ts";
import { integers } from "./integers.ts";
import type { PartScheme } from "./scheme.ts";
import { E4M3 } from "./small-floats.ts";

/** Undefined for a description that no scheme stores. */
export function compressedScheme(form: CompressedForm): PartScheme | undefined {
  const title = describe(form);
  const named = { id: title, title };
  const { bits, symmetric, activations } = form;
  if (form.format === "pack-quantized" || form.format === "int-quantized") {
    const group = form.strategy === "group" ? form.group : GROUPS[form.strategy];
    const packed = form.format === "pack-quantized";
    if (form.type !== "int" || group === undefined || bits < 1 || bits > 8 || (!packed && bits !== 8)) return undefined;
    if (group === "tensor" && !symmetric) return undefined;
    return integers({
      ...named,
      bits,
      group,
      symmetric,
      packed,
      activations: activations === "none" ? "none" : "token",
    });
  }
  if (form.type !== "float" || !symmetric) return undefined;
  if (form.format === "float-quantized") {
    const scales = form.strategy === "block" ? form.block : GROUPS[form.strategy];
    if (bits !== 8 || scales === undefined) return undefined;
    return float8({ ...named, format: E4M3, dtype: "F8_E4M3", scales, activations });
  }
  const scheme = form.format === "nvfp4-pack-quantized" ? nvfp4a16 : mxfp4a16;
  const { strategy, group } = scheme.form;
  return bits === 4 && form.strategy === strategy && form.group === group ? scheme : undefined;
}

const GROUPS: Partial<Record<CompressedForm["strategy"], "row" | "tensor">> = { channel: "row", tensor: "tensor" };

function describe({ format, bits, type, symmetric, strategy, group, block }: CompressedForm): string {
  const size = group === undefined ? (block?.join("x") ?? "") : String(group);
  return `${format} ${type}${bits} ${strategy}${size}${symmetric ? "" : " asymmetric"}`;
}
