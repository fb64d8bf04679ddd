// The dtypes and storage classes of torch in the spelling of safetensors. `undefined`: torch has it, safetensors does
// not, so a tensor of it is refused by name while a file that only mentions it can be read.
// Source: reference checkpoint-formats.md section 2.2; c10/core/ScalarType.h.
import type { TorchDtype } from "../pickle/value.ts";

/** By the name that follows `torch.` in a pickle. */
export const TORCH_DTYPES: ReadonlyMap<string, TorchDtype> = new Map<string, TorchDtype>([
  ["float64", { dtype: "F64", bytes: 8 }],
  ["double", { dtype: "F64", bytes: 8 }],
  ["float32", { dtype: "F32", bytes: 4 }],
  ["float", { dtype: "F32", bytes: 4 }],
  ["float16", { dtype: "F16", bytes: 2 }],
  ["half", { dtype: "F16", bytes: 2 }],
  ["bfloat16", { dtype: "BF16", bytes: 2 }],
  ["float8_e4m3fn", { dtype: "F8_E4M3", bytes: 1 }],
  ["float8_e5m2", { dtype: "F8_E5M2", bytes: 1 }],
  ["float8_e4m3fnuz", { dtype: "F8_E4M3FNUZ", bytes: 1 }],
  ["float8_e5m2fnuz", { dtype: "F8_E5M2FNUZ", bytes: 1 }],
  ["float8_e8m0fnu", { dtype: "F8_E8M0", bytes: 1 }],
  ["int64", { dtype: "I64", bytes: 8 }],
  ["long", { dtype: "I64", bytes: 8 }],
  ["int32", { dtype: "I32", bytes: 4 }],
  ["int", { dtype: "I32", bytes: 4 }],
  ["int16", { dtype: "I16", bytes: 2 }],
  ["short", { dtype: "I16", bytes: 2 }],
  ["int8", { dtype: "I8", bytes: 1 }],
  ["uint8", { dtype: "U8", bytes: 1 }],
  ["uint16", { dtype: "U16", bytes: 2 }],
  ["uint32", { dtype: "U32", bytes: 4 }],
  ["uint64", { dtype: "U64", bytes: 8 }],
  ["bool", { dtype: "BOOL", bytes: 1 }],
  ["complex64", { dtype: "C64", bytes: 8 }],
  ["cfloat", { dtype: "C64", bytes: 8 }],
  ["complex128", { dtype: undefined, bytes: 16 }],
  ["cdouble", { dtype: undefined, bytes: 16 }],
  ["complex32", { dtype: undefined, bytes: 4 }],
  ["chalf", { dtype: undefined, bytes: 4 }],
  ["float4_e2m1fn_x2", { dtype: undefined, bytes: 1 }],
  ...[1, 2, 3, 4, 5, 6, 7].flatMap((bits): [string, TorchDtype][] => [
    [`int${bits}`, { dtype: undefined, bytes: 1 }],
    [`uint${bits}`, { dtype: undefined, bytes: 1 }],
  ]),
  ...["bits1x8", "bits2x4", "bits4x2", "bits8"].map((name): [string, TorchDtype] => [
    name,
    { dtype: undefined, bytes: 1 },
  ]),
  ["bits16", { dtype: undefined, bytes: 2 }],
  ["quint4x2", { dtype: undefined, bytes: 1 }],
  ["quint2x4", { dtype: undefined, bytes: 1 }],
  ["qint8", { dtype: undefined, bytes: 1 }],
  ["quint8", { dtype: undefined, bytes: 1 }],
  ["qint32", { dtype: undefined, bytes: 4 }],
]);

/** Storage classes by the name that follows `torch.`, as the dtype of their elements. */
export const TORCH_STORAGES: ReadonlyMap<string, string> = new Map([
  ["DoubleStorage", "float64"],
  ["FloatStorage", "float32"],
  ["HalfStorage", "float16"],
  ["BFloat16Storage", "bfloat16"],
  ["LongStorage", "int64"],
  ["IntStorage", "int32"],
  ["ShortStorage", "int16"],
  ["CharStorage", "int8"],
  ["ByteStorage", "uint8"],
  ["BoolStorage", "bool"],
  ["ComplexFloatStorage", "complex64"],
  ["ComplexDoubleStorage", "complex128"],
]);

/** Storages of quantized tensors, which are refused by name. */
export const QUANTIZED_STORAGES: readonly string[] = Object.freeze([
  "QInt8Storage",
  "QUInt8Storage",
  "QInt32Storage",
  "QUInt4x2Storage",
  "QUInt2x4Storage",
]);
