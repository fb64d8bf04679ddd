// What the configuration of a compressed-tensors folder says of a scheme. Schemes that such a folder can hold declare
// it; core/formats/quantized/compressed-tensors-config.ts writes and reads it.
// Source: compressed-tensors, QuantizationArgs and CompressionFormat.

export type CompressedForm = {
  readonly container: "compressed-tensors";
  readonly format:
    | "pack-quantized"
    | "int-quantized"
    | "float-quantized"
    | "nvfp4-pack-quantized"
    | "mxfp4-pack-quantized";
  readonly bits: number;
  readonly type: "int" | "float";
  readonly symmetric: boolean;
  readonly strategy: "tensor" | "channel" | "group" | "block" | "tensor_group";
  readonly group: number | undefined;
  readonly block: readonly [number, number] | undefined;
  /** How servers quantize the inputs of a layer as they come: not at all, by token, or by groups of 128 of a token. */
  readonly activations: "none" | "token" | "group128";
};
