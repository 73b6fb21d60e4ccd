"""The adapters that a run keeps open in peft, and do there what they do here."""

from pathlib import Path

import pytest
import torch

from quillgpt.checkpoint import load_model
from quillgpt.checkpoint.adapter import ADAPTER_CONFIG
from quillgpt.checkpoint.names import checkpoints_folder
from quillgpt.config import resolve
from quillgpt.data.prepare import prepare
from quillgpt.training import train
from tolerances import FLOAT32

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

QUICK = {
    **{"n_layer": "2", "n_head": "2", "n_embd": "32", "block_size": "16", "dataset": "words"},
    **{"batch_size": "4", "gradient_accumulation_steps": "1", "learning_rate": "0.01"},
    **{"max_iters": "6", "warmup_iters": "0", "eval_interval": "3", "eval_iters": "2"},
    **{"device": "cpu", "dtype": "float32", "threads": "1", "compile": "False"},
}


@pytest.mark.parametrize("targets", ["all", "attention", "mlp"])
@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_base_and_adapter_compute_what_the_merged_checkpoint_does(tmp_path, monkeypatch, arch, targets):
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("seven wizards watch a lazy dog while the quick fox jumps. " * 40)
    prepare(["words.txt"], data_dir=Path("data"))

    def run(out_dir, **more):
        train(resolve(None, {**QUICK, **more, "out_dir": out_dir, "arch": arch}, environ={}, dotenv=None))
        return checkpoints_folder(Path(out_dir)) / "best"

    base = run("base")
    merged = run("adapted", init_from="base", lora_rank="3", lora_alpha="5", lora_targets=targets)
    ids = torch.randint(20, (2, 16), generator=torch.Generator().manual_seed(0))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        before = theirs.eval()(ids).logits
        theirs = peft.PeftModel.from_pretrained(theirs, (merged / ADAPTER_CONFIG).parent).eval()(ids).logits
        model = load_model(merged).model
        ours = model.logits(model(ids))
        unadapted = transformers.AutoModelForCausalLM.from_pretrained(merged).eval()(ids).logits
        adapter = ((merged / ADAPTER_CONFIG).parent).resolve()
        monkeypatch.chdir("/")  # its base is found from anywhere
        alone = peft.AutoPeftModelForCausalLM.from_pretrained(adapter).eval()(ids).logits
    assert (theirs - before).abs().max() > 1e-3
    torch.testing.assert_close(alone, theirs, **FLOAT32)
    torch.testing.assert_close(ours, theirs, **FLOAT32)
    torch.testing.assert_close(unadapted, theirs, **FLOAT32)
