// The shape of one output tensor, and which inputs fit it. Embeddings of vocabularies of different size may be cut.
// Source: reference section 2.1; where we are stricter, docs/recipes.md says so.
import { MergeyardError } from "../error.ts";
import { type Shape, sameShape } from "../tensor.ts";
import { tensorRole } from "./architecture.ts";
import type { OutputTensor } from "./output-tensors.ts";
import { inputPlace, type PresentInput, type TensorPlanning } from "./tensor-inputs.ts";

/** The inputs that fit together, and the shape of what they make. */
export type Shaped = { readonly inputs: readonly PresentInput[]; readonly shape: Shape };

/** The shape of the output, and the inputs that fit: cut where the method cuts embeddings, left out under `skip`. */
export function fitShapes(
  tensor: OutputTensor,
  present: readonly PresentInput[],
  reference: PresentInput,
  planning: TensorPlanning,
): Shaped {
  const shape = targetShape(present, reference, planning);
  const cuts = !sameShape(shape, reference.entry.shape) || isCuttable(present, planning);
  const fits = ({ entry }: PresentInput) => sameShape(entry.shape, shape) || (cuts && contains(entry.shape, shape));
  const other = present.find((input) => !fits(input));
  if (other === undefined) return { inputs: present, shape };
  if (planning.recipe.onMismatch === "error") throw shapeError(tensor, other, reference, planning);
  planning.notes.add(`${other.source.model} is left out where its shape differs`, tensor.name);
  return { inputs: present.filter(fits), shape };
}

/** Embeddings of different size: the common top-left part, or the base's, as the method declares. */
function targetShape(present: readonly PresentInput[], reference: PresentInput, planning: TensorPlanning): Shape {
  const { shape } = reference.entry;
  if (planning.method.embeddingMismatch !== "common" || !isCuttable(present, planning)) return shape;
  return shape.map((length, axis) =>
    present.reduce((least, { entry }) => Math.min(least, entry.shape[axis] ?? 0), length),
  );
}

function isCuttable(present: readonly PresentInput[], { method, models }: TensorPlanning): boolean {
  if (method.embeddingMismatch === "error" || present.some(({ entry }) => entry.shape.length !== 2)) return false;
  return present.some(({ entry, source }) => tensorRole(entry, models.get(source.model)?.vocabulary) !== undefined);
}

function contains(outer: Shape, inner: Shape): boolean {
  return outer.every((length, axis) => length >= (inner[axis] ?? 0));
}

export function shapeError(
  tensor: OutputTensor,
  other: PresentInput,
  reference: PresentInput,
  { recipe, models }: TensorPlanning,
): MergeyardError {
  const isVocabulary = tensorRole(other.entry, models.get(other.source.model)?.vocabulary) !== undefined;
  return new MergeyardError("PlanShapeMismatch", {
    where: inputPlace(tensor, other, recipe),
    found: `[${other.entry.shape.join(", ")}]`,
    expected: `[${reference.entry.shape.join(", ")}], as in ${reference.source.model}`,
    hint: isVocabulary
      ? "the vocabularies differ: use fine-tunes of one base, or `on_mismatch: skip` to keep the base's rows"
      : "merge models of one build, or write `on_mismatch: skip` to merge such tensors without the models that differ",
  });
}
