// Which sink a derived tensor gets: by what its scheme stores, or a copy where it has none. Called for every tensor
// that a unit merges or copies.
import type { Kernels } from "../core/ops/kernels.ts";
import type { Dtype } from "../core/tensor.ts";
import { createCopySink, createPartsSink } from "./parts-sink.ts";
import { createQuantizedSink } from "./quantized-sink.ts";
import type { Sink, SinkPlace } from "./sink.ts";

/** Takes kernel memory for good: whoever calls marks and releases. Throws QuantizeNotFinite from `take`. */
export function createSink({ tensor, ...to }: SinkPlace, name: string, dtype: Dtype, kernels: Kernels): Sink {
  if (!("parts" in tensor)) return createQuantizedSink({ tensor, ...to }, name, dtype, kernels);
  const place = { tensor, ...to };
  return tensor.scheme === undefined ? createCopySink(place, dtype) : createPartsSink(place, name, dtype, kernels);
}
