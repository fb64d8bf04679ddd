// Every merge method by its id, in sorted order. Tables in the documents, command-line help and parameter checks are
// made from this map.
import { adamerging } from "./adamerging.ts";
import { arcee_fusion } from "./arcee_fusion.ts";
import { breadcrumbs } from "./breadcrumbs.ts";
import { breadcrumbs_ties } from "./breadcrumbs_ties.ts";
import { dare_linear } from "./dare_linear.ts";
import { dare_ties } from "./dare_ties.ts";
import { della } from "./della.ts";
import { della_linear } from "./della_linear.ts";
import { emr } from "./emr.ts";
import { fisher } from "./fisher.ts";
import { iso_c } from "./iso_c.ts";
import { iso_cts } from "./iso_cts.ts";
import { karcher } from "./karcher.ts";
import { knots } from "./knots.ts";
import { linear } from "./linear.ts";
import { localize_and_stitch } from "./localize_and_stitch.ts";
import type { MergeMethod } from "./method.ts";
import { model_stock } from "./model_stock.ts";
import { moe_expert } from "./moe_expert.ts";
import { moe_gates } from "./moe_gates.ts";
import { moe_router } from "./moe_router.ts";
import { multislerp } from "./multislerp.ts";
import { nearswap } from "./nearswap.ts";
import { nuslerp } from "./nuslerp.ts";
import { passthrough } from "./passthrough.ts";
import { pcb } from "./pcb.ts";
import { ram } from "./ram.ts";
import { ramplus_tl } from "./ramplus_tl.ts";
import { regmean } from "./regmean.ts";
import { sce } from "./sce.ts";
import { slerp } from "./slerp.ts";
import { tall_masks } from "./tall_masks.ts";
import { task_arithmetic } from "./task_arithmetic.ts";
import { ties } from "./ties.ts";
import { ties_paper } from "./ties_paper.ts";
import { tsv_m } from "./tsv_m.ts";
import { uniform_soup } from "./uniform_soup.ts";
import { wudi } from "./wudi.ts";

const METHODS: ReadonlyMap<string, MergeMethod> = new Map(
  Object.entries({
    adamerging,
    arcee_fusion,
    breadcrumbs,
    breadcrumbs_ties,
    dare_linear,
    dare_ties,
    della,
    della_linear,
    emr,
    fisher,
    iso_c,
    iso_cts,
    karcher,
    knots,
    linear,
    localize_and_stitch,
    model_stock,
    multislerp,
    nearswap,
    nuslerp,
    passthrough,
    pcb,
    ram,
    ramplus_tl,
    regmean,
    sce,
    slerp,
    tall_masks,
    task_arithmetic,
    ties,
    ties_paper,
    tsv_m,
    uniform_soup,
    wudi,
  } satisfies Record<string, MergeMethod>),
);

/** Ids in sorted order. */
export const METHOD_IDS: readonly string[] = Object.freeze([...METHODS.keys()]);

/** What the planner gives tensors that no recipe's `merge_method` does. */
const PLANNED: ReadonlyMap<string, MergeMethod> = new Map(
  Object.entries({ moe_expert, moe_gates, moe_router } satisfies Record<string, MergeMethod>),
);

/** The method of a planned tensor: of a recipe or the planner's own; undefined for any other, a copy included. */
export function findPlannedMethod(id: string): MergeMethod | undefined {
  return METHODS.get(id) ?? PLANNED.get(id);
}

/** The method of that id that a recipe may name, or undefined. */
export function findMethod(id: string): MergeMethod | undefined {
  return METHODS.get(id);
}
