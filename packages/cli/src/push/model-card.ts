/** The README.md of an uploaded model, whose head the hub reads: https://huggingface.co/docs/hub/model-cards. */

export interface CardFacts {
  repository: string;
  /** Hub name of the base model. */
  base: string;
  merged: boolean;
  rank: number;
  alpha: number;
}

export function modelCard(facts: CardFacts): string {
  const { repository, base, merged, rank, alpha } = facts;
  const head = [
    `base_model: ${base}`,
    `base_model_relation: ${merged ? 'finetune' : 'adapter'}`,
    `library_name: ${merged ? 'transformers' : 'peft'}`,
    'pipeline_tag: text-generation',
    'tags:',
    '- lora',
  ];
  const what = merged
    ? `[${base}](https://huggingface.co/${base}) with a LoRA adapter merged into its weights.`
    : `A LoRA adapter for [${base}](https://huggingface.co/${base}).`;
  return `---
${head.join('\n')}
---

# ${repository.split('/')[1]}

${what} Rank ${rank}, alpha ${alpha}; trained with Anneal.

\`\`\`python
${(merged ? loadMerged : loadAdapter)(facts)}
\`\`\`
`;
}

function loadMerged({ repository }: CardFacts): string {
  return `from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("${repository}")
tokenizer = AutoTokenizer.from_pretrained("${repository}")`;
}

function loadAdapter({ repository, base }: CardFacts): string {
  return `from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("${base}"), "${repository}")
tokenizer = AutoTokenizer.from_pretrained("${base}")`;
}
