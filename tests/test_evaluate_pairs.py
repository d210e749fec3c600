"""Anybody's embeddings of texts and videos through the evaluation door."""

import json

import numpy as np
import pytest

from metrixkit.errors import InputError
from metrixkit.evaluate import main
from metrixkit.judging.pair_files import PairFiles, read_pair_table
from metrixkit.judging.pairs import pair_embeddings
from metrixkit.retrieval import crossmodal

# Text i belongs to video OWNERS[i]; the last video has no text.
OWNERS = [2, 0, 0, 1]
NAMES = ["va", "vb", "vc", "vd"]


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    video = rng.normal(size=(4, 6)).astype(np.float32)
    text = video[OWNERS] + 0.8 * rng.normal(size=(4, 6)).astype(np.float32)
    np.save(tmp_path / "T.npy", text)
    np.save(tmp_path / "V.npy", video)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text.astype(float), video.astype(float))]
    np.save(tmp_path / "S.npy", unit[0] @ unit[1].T)
    (tmp_path / "rows.csv").write_text("video\n" + "".join(f"{owner}\n" for owner in OWNERS))
    return tmp_path


def expected(folder, **options):
    return crossmodal(np.load(folder / "T.npy"), np.load(folder / "V.npy"), OWNERS, recall_at=(1, 2), **options)


def files(folder, pairs="rows.csv", **more):
    return PairFiles(str(folder / "T.npy"), str(folder / "V.npy"), None, str(folder / pairs), **more)


SMALL = ["evaluation.recall_at=[1,2]", "evaluation.select_by=t2v/mrr"]


def test_embeddings_and_scores_give_the_same(folder, capsys):
    for arrays in (["--text", "T.npy", "--video", "V.npy"], ["--similarity", "S.npy"]):
        arguments = [str(folder / a) if a.endswith(".npy") else a for a in arrays]
        out = folder / "out.json"
        assert main([*arguments, "--pairs", str(folder / "rows.csv"), SMALL[0], "--out", str(out)]) == 0
        told = json.loads(out.read_text())
        for name, value in expected(folder).items():
            assert told["metrics"][name] == pytest.approx(value)
        assert told["metrics"]["rsum"] == pytest.approx(
            sum(value for name, value in expected(folder).items() if name.endswith("/recall@1"))
        )
        assert told["counts"]["v2t/without_relevant"] == 1
        assert "t2v/recall@1" in told["intervals"]
    screen = capsys.readouterr().out
    assert "1 videos have no text and are left out of v2t" in screen
    assert "t2v/median_rank" in screen


def test_compat_and_groups_change_the_other_direction_only(folder):
    plain = pair_embeddings(files(folder), SMALL)["metrics"]
    compat = pair_embeddings(files(folder), SMALL, compat="clip4clip")
    assert compat["metrics"]["v2t/mean_rank"] == expected(folder, compat="clip4clip")["v2t/mean_rank"]
    assert compat["compat"] == "clip4clip"
    assert compat["metrics"]["t2v/mean_rank"] == plain["t2v/mean_rank"]
    grouped = pair_embeddings(files(folder), SMALL, group_by="video")
    assert grouped["metrics"]["v2t/recall@2"] == expected(folder, group_by="video")["v2t/recall@2"]


def test_pairs_by_names_in_any_order(folder):
    wanted = pair_embeddings(files(folder), SMALL)["metrics"]
    (folder / "named.csv").write_text("text,video\nt3,vb\nt0,vc\nt1,va\nt2,va\n")
    (folder / "t.txt").write_text("t0\nt1\nt2\nt3\n")
    (folder / "v.csv").write_text("id\n" + "\n".join(NAMES) + "\n")
    ids = {"text_ids": str(folder / "t.txt"), "video_ids": str(folder / "v.csv")}
    assert pair_embeddings(files(folder, "named.csv", **ids), SMALL)["metrics"] == wanted
    # The same beside the arrays.
    (folder / "T.txt").write_text("t0\nt1\nt2\nt3\n")
    (folder / "V.csv").write_text("id\n" + "\n".join(NAMES) + "\n")
    assert pair_embeddings(files(folder, "named.csv"), SMALL)["metrics"] == wanted


def test_a_published_list_names_the_rows_of_the_videos(tmp_path):
    (tmp_path / "list.csv").write_text("key,vid_key,video_id,sentence\nret0,msr1,video9,a\nret1,msr2,video7,b\n")
    videos, names, note = read_pair_table(tmp_path / "list.csv", None, None, (2, 2))
    assert (videos, names) == (["video9", "video7"], ["video9", "video7"])
    assert "in the order of list.csv" in note


@pytest.mark.parametrize(
    ("rows", "ids", "complaint"),
    [
        ("text,video\n0,va\n0,vb\n1,va\n2,va\n3,va\n", NAMES, "text '0' stands there twice"),
        ("text,video\n0,va\n1,vb\n2,va\n", NAMES, r"text '3' has no row \(1 without a row, 0 rows of no text\)"),
        ("text,video\n0,va\n1,vb\n2,va\n3,va\n7,va\n", NAMES, "there is no text '7'"),
        ("video\nva\nvb\n", NAMES, "2 rows for 4 texts"),
        ("video\nva\nvb\nva\nvx\n", None, "names 3 videos, there are 4: say by --video-ids"),
        ("clip\nva\n", NAMES, "has no column 'video'"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, rows, ids, complaint):
    (tmp_path / "p.csv").write_text(rows)
    with pytest.raises(InputError, match=complaint):
        read_pair_table(tmp_path / "p.csv", None, ids, (4, 4))


def test_bad_input_is_named(folder, capsys):
    (folder / "strange.csv").write_text("video\nva\nvb\nva\nvx\n")
    (folder / "V.csv").write_text("id\n" + "\n".join(NAMES) + "\n")
    with pytest.raises(
        InputError, match=r"--pairs .* belongs to video 'vx', which is not among the ids of the videos \(--video-ids"
    ):
        pair_embeddings(files(folder, "strange.csv"), SMALL)
    (folder / "V.csv").unlink()
    broken = np.load(folder / "T.npy")
    broken[2, 1] = np.nan
    np.save(folder / "T.npy", broken)
    with pytest.raises(InputError, match="row 2"):
        pair_embeddings(files(folder), SMALL)
    arrays = ["--text", str(folder / "T.npy"), "--video", str(folder / "V.npy")]
    for arguments, complaint in (
        ([*arrays[:2]], "give --text T.npy and --video V.npy, or --similarity"),
        ([*arrays, "--similarity", str(folder / "S.npy")], "or --similarity"),
        ([*arrays, "--protocol", "1k-A"], "has 1,000 texts and 1,000 videos; here are 4 and 4"),
        ([*arrays, "--protocol", "1kA"], "Did you mean '1k-A'?"),
        ([*arrays, "--compat", "clip4clips"], "clip4clip"),
        ([*arrays, "data=cub"], "data does not apply here"),
        ([*arrays, "--video-ids", str(folder / "no.txt")], "no such file"),
        (["--similarity", str(folder / "none.npy")], "no such file"),
        (["--embeddings", "E.npy", "--table", "T.csv", "--protocol", "1k-A"], "--protocol goes with --text"),
    ):
        assert main(arguments) == 2, arguments
        assert complaint in capsys.readouterr().err


def test_dual_softmax_stands_in_rows_of_its_own(tmp_path, capsys):
    import json

    import numpy as np

    from metrixkit.evaluate import main
    from metrixkit.retrieval import crossmodal
    from metrixkit.retrieval.rerank import dual_softmax

    scores = np.random.default_rng(0).random((30, 30)) + 0.2 * np.eye(30)
    np.save(tmp_path / "s.npy", scores)
    out = tmp_path / "r.json"
    command = ["--similarity", str(tmp_path / "s.npy"), "--rerank", "dual_softmax", "--out", str(out)]
    assert main(command) == 0
    metrics = json.loads(out.read_text())["metrics"]
    plain, t2v = crossmodal(similarity=scores), crossmodal(similarity=dual_softmax(scores))
    v2t = crossmodal(similarity=dual_softmax(scores.T).T)
    assert metrics["t2v/recall@5"] == plain["t2v/recall@5"]
    assert metrics["rerank/dual_softmax/t2v/recall@5"] == t2v["t2v/recall@5"]
    assert metrics["rerank/dual_softmax/v2t/mean_rank"] == v2t["v2t/mean_rank"]
    assert "sees all queries at once" in capsys.readouterr().out
    assert main([*command[:2], "--rerank", "k_reciprocal"]) == 2
    assert main([*command[:2], "--verify"]) == 2
