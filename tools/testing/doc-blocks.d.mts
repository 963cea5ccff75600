export interface Block {
  /** Path from the root. */
  document: string;
  line: number;
  /** The first word after the fence. */
  language: string;
  /** The rest: how the block is tested, where it isn't run. */
  mark: string;
  text: string;
}

export interface Program {
  document: string;
  language: 'ts' | 'python' | 'sh';
  text: string;
}

export const documents: string[];
export function blocksOf(document: string, text?: string): Block[];
export function typescriptProgram(blocks: Pick<Block, 'text'>[]): string;
export function programsOf(document: string, left?: string[]): Program[];
