/** Nested plain objects and arrays whose leaves are tensors or static values: what compiled functions take and return. */
import { type Tensor, tf } from '../tf.ts';

/** Anything that is not a tensor is static: part of what a compiled variant is keyed by. */
export type Static = string | number | boolean | null | undefined;
export type Tree = Tensor | Static | readonly Tree[] | { readonly [key: string]: Tree };

/** Tensors of a tree in a fixed order, and a signature that equal shapes, dtypes, keys and statics share. */
export interface Flat {
  tensors: Tensor[];
  signature: string;
}

export function flatten(tree: Tree, dtypeOf: (tensor: Tensor) => string | number = (t) => t.dtype): Flat {
  const tensors: Tensor[] = [];
  const parts: string[] = [];
  const visit = (node: Tree): void => {
    if (node instanceof tf.Tensor) {
      tensors.push(node);
      parts.push(`${dtypeOf(node)}[${node.shape.join()}]`);
    } else if (Array.isArray(node)) {
      parts.push('(');
      for (const item of node as readonly Tree[]) visit(item);
      parts.push(')');
    } else if (typeof node === 'object' && node !== null) {
      parts.push('{');
      for (const [key, value] of Object.entries(node)) {
        parts.push(`${key}:`);
        visit(value as Tree);
      }
      parts.push('}');
    } else {
      parts.push(`${typeof node}=${String(node)}`);
    }
  };
  visit(tree);
  return { tensors, signature: parts.join(' ') };
}

/** The same tree with its tensors replaced, in `flatten`'s order. */
export function replaceTensors<T extends Tree>(tree: T, tensors: readonly Tensor[]): T {
  let next = 0;
  const visit = (node: Tree): Tree => {
    if (node instanceof tf.Tensor) return tensors[next++] as Tensor;
    if (Array.isArray(node)) return (node as readonly Tree[]).map(visit);
    if (typeof node === 'object' && node !== null) {
      return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, visit(value as Tree)]));
    }
    return node;
  };
  return visit(tree) as T;
}
