"""A person's choices for a study in quarantine.

Each choice, between patients or between versions of one image, is a question with numbered options. Nothing
received is deleted: versions that are not chosen stay in the spool, set aside, and are not analysed.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.identity import Patient, are_one_patient
from dicom_node.base.errors import NotAllowedNow, NotInSpool, StoreAway
from dicom_node.base.events import (
    VERSION_CHOSEN,
)
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import ObjectRole, Outcome, StudyState
from dicom_node.base.store import intake
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import ReceivedObject, Study
from dicom_node.base.store.transitions import FOR_UPDATE, record
from dicom_node.base.store.views import as_json
from dicom_node.receive.inspection import Inspected, Inspector, ReaderLost
from dicom_node.receive.spool import Arrival, Spool
from dicom_node.studies.comparison import Comparison
from dicom_node.studies.judgement import Arrived
from dicom_node.studies.quarantine import release_study
from dicom_node.studies.rows import ObjectRows

_ROLES = (ObjectRole.SOURCE, ObjectRole.NON_SOURCE)


@dataclass(frozen=True, slots=True)
class Version:
    """One received version of an object in a quarantined study.

    ``number``: id of its row. ``in_force``: whether it is the version that is analysed now. ``superseded``:
    whether a newer version replaced it, such as one with a corrected name. ``elsewhere``: the Study Instance
    UID of another study that has this object; "" for none.
    """

    number: int
    item: Arrived
    in_force: bool
    superseded: bool = False
    elsewhere: str = ""

    @property
    def uid(self) -> str:
        """The SOP Instance UID of the object."""
        return self.item.found.sop_instance_uid


@dataclass(frozen=True, slots=True)
class Option:
    """What a person can choose for a quarantined study: one patient with all objects, or one version of the
    image ``sop_instance_uid``.

    ``sop_instance_uid``: "" for a patient. ``if_taken``: the number of the patient option for which this
    choice of a version is needed; None if there is only one patient.
    """

    number: int
    sop_instance_uid: str
    versions: Sequence[Version]
    if_taken: int | None = None

    @property
    def question(self) -> tuple[int | None, str]:
        """The key of the choice to be made; all options between which a person chooses have the same key."""
        return self.if_taken, self.sop_instance_uid


_Patients = Sequence[Sequence[Version]]
"""A study's versions, patient by patient."""


def _options(groups: _Patients) -> list[Option]:
    """Return all options between which a person must choose, numbered from 1: patients first, otherwise in
    the order of arrival.
    """
    numbers = count(1)
    patients = [Option(next(numbers), "", group) for group in groups if len(groups) > 1]
    found = list(patients)
    for at, group in enumerate(groups):
        if_taken = patients[at].number if patients else None
        for uid, versions in _by_uid(group).items():
            if len(versions) > 1:
                found += [Option(next(numbers), uid, (version,), if_taken) for version in versions]
    return found


def _chosen_versions(groups: _Patients, take: Collection[int]) -> dict[str, Version]:
    """Return the version of each object, by SOP Instance UID, to be used if a person takes the options with
    the numbers ``take``. Raises NotAllowedNow.
    """
    options = _options(groups)
    patient = _chosen_option(options, take, (None, "")) if len(groups) > 1 else None
    group = patient.versions if patient else [version for group in groups for version in group]
    if_taken = patient.number if patient else None
    if wrong := set(take) - {o.number for o in options if o.if_taken == if_taken or o == patient}:
        raise NotAllowedNow(
            f"--take {min(wrong)} is no option of this study, or of the other patient: {_summary(options)}"
        )
    return {
        uid: versions[0] if len(versions) == 1 else _chosen_option(options, take, (if_taken, uid)).versions[0]
        for uid, versions in _by_uid(group).items()
    }


class Choice:
    """Lets a person choose between versions in a quarantined study, and releases the study."""

    def __init__(self, database: Database, settings: Settings) -> None:
        """Prepare to read the spooled files of these settings again."""
        self._database = database
        self._files = Files(settings)
        self._assumed = {peer.ae_title: peer.assume_charset for peer in settings.peers if "send" in peer.may}
        self._inspector = Inspector()
        spool = Spool(settings.node.data_dir / "spool", minimum_free_bytes=0)
        self._object_rows = ObjectRows(spool, settings, Comparison(spool, settings, self._inspector))

    def rows(self, study_id: int, registered: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Return the options for a person as JSON objects: who sent them, when, and how they differ; none if
        no choice is needed. They contain patients' names.

        ``as_of`` in each row identifies the state of the study; the choice must pass it back. ``registered``:
        what is registered under the study's Patient ID, by keyword, if it differs: two rows without number
        compare it with the images.
        """
        patients, as_of = self._read(study_id)
        options = _options(patients)
        rows = [
            _row(option, [other for other in options if other.question == option.question])
            for option in options
        ]
        if registered is not None:
            in_force = [version for group in patients for version in group if version.in_force]
            rows += _compared_with(registered, in_force)
        return [{"as_of": as_of, **row} for row in rows]

    def release(
        self,
        study_id: int,
        take: Collection[int] = (),
        *,
        as_of: str | None = None,
        also: Callable[[Session, dict[str, Any]], None] | None = None,
    ) -> None:
        """Release a study from quarantine with the options numbered ``take``, one for each choice to be made.

        ``as_of``: from the rows among which the person chose, None if unknown; if objects arrived since then,
        a number may mean another patient. ``also`` writes in the same transaction; it is called with the
        released study and the spool names of each option taken. Raises NotAllowedNow if the study is not in
        quarantine, a choice is missing, an option does not exist, or objects arrived since.
        """
        patients, seen = self._read(study_id)
        chosen = [option for option in _options(patients) if option.number in take]
        with self._database.write() as session:
            study = session.get_one(Study, study_id, with_for_update=FOR_UPDATE)
            if study.state is StudyState.QUARANTINED:  # else it says what it is: released already, say
                if as_of not in (None, seen) or _arrivals_hash(session, study_id) != seen:
                    raise NotAllowedNow("something came for the study meanwhile: look at its versions again")
                self._apply(session, study, patients, _chosen_versions(patients, take))
                for option in chosen:
                    first = option.versions[0]
                    record(
                        session,
                        VERSION_CHOSEN,
                        study.id,
                        instance=option.sop_instance_uid or first.uid,
                        objects=len(option.versions),
                        calling=first.item.arrival.calling_ae,
                        received=as_json(first.item.arrival.received_at),
                    )
            release_study(session, study_id)
            if also is not None:
                also(session, {"of": seen, "taken": [_names(option) for option in chosen]})

    def present_numbers(self, study_id: int, what: Mapping[str, Any]) -> list[int] | None:
        """Return the present numbers of the options that were taken in an earlier release, to repeat it after
        a restore.

        ``what``: the record of that release. None unless the study is as it was then: in quarantine, with the
        same objects.
        """
        with self._database.read() as session:
            study = session.get_one(Study, study_id)
            if study.state is not StudyState.QUARANTINED or _arrivals_hash(session, study_id) != what["of"]:
                return None
        patients, _ = self._read(study_id)
        numbers = [option.number for option in _options(patients) if _names(option) in what["taken"]]
        return numbers if len(numbers) == len(what["taken"]) else None

    def _apply(
        self, session: Session, study: Study, patients: _Patients, taken: Mapping[str, Version]
    ) -> None:
        """Make the chosen versions, ``taken`` by SOP Instance UID, the current ones, and mark the others as
        set aside. Raises NotAllowedNow.
        """
        for version in taken.values():
            if not version.in_force and not version.elsewhere:
                _check_movable(session, study, version)
                self._object_rows.make_current(session, study, version.item)
        versions = [version for group in patients for version in group]
        _set_objects_aside(session, study, {version.uid for version in versions} - taken.keys(), taken)
        paths = {version.item.path for version in taken.values()}
        aside = {version.item.path for version in versions if not version.superseded} - paths
        for row in intake.received(session, study.id):
            path = self._files.data_dir / row.path
            if path in aside and row.outcome is not Outcome.DUPLICATE:
                row.outcome = Outcome.SET_ASIDE
            elif path in paths and row.outcome in (Outcome.CONFLICT, Outcome.SET_ASIDE):
                row.outcome = Outcome.TAKEN
        if here := next((version for version in taken.values() if not version.elsewhere), None):
            self._object_rows.describe_study(session, study, here.item.found)

    def _read(self, study_id: int) -> tuple[_Patients, str]:
        """Inspect all versions of a study's objects again; return them grouped by patient, and a hash of the
        present objects.
        """
        with self._database.read() as session:
            study = session.get_one(Study, study_id)
            as_of, listed = _arrivals_hash(session, study_id), list(_listed(session, study))
            session.expunge_all()
        versions = []
        try:
            for row, in_force, superseded, elsewhere in listed:
                arrival = Arrival(row.association, row.calling_ae, row.called_ae, "", 0, row.received_at)
                try:
                    with self._database.read() as session:
                        path = self._files.here(session, row.path)
                    found = self._inspected(path, self._assumed.get(row.calling_ae, ""))
                except (FileNotFoundError, NotInSpool):
                    continue
                except OSError as error:  # what a person does not see cannot be chosen
                    raise StoreAway.of_disk(error) from error
                item = Arrived(self._files.data_dir / row.path, arrival, found, row.bytes)
                if not found.fault:
                    versions.append(Version(row.id, item, in_force, superseded, elsewhere))
        finally:
            self._inspector.close()
        return _patients(versions), as_of

    def _inspected(self, path: Path, charset: str) -> Inspected:
        """Inspect a file, a second time if the inspection process died. ``charset``: the character set to try
        if the object's own does not fit.
        """
        try:
            return self._inspector.inspect(path, charset)
        except ReaderLost:
            return self._inspector.inspect(path, charset, again=True)


def _check_movable(session: Session, study: Study, version: Version) -> None:
    """Check that the object may become one of ``study``: a study that has it now must not have gone on with
    it. Raises NotAllowedNow.
    """
    former = intake.instance(session, version.uid)
    other = session.get_one(Study, former.study_id) if former else study
    if other is not study and other.state is not StudyState.QUARANTINED:
        raise NotAllowedNow(
            f"object {version.uid} is in study {other.study_instance_uid}, which is "
            f"{other.state}: it cannot be taken from there"
        )


def _set_objects_aside(
    session: Session, study: Study, left: Collection[str], taken: Mapping[str, Version]
) -> None:
    """Set aside the objects of the study that are ``left``, and deleted ones of another patient than the
    chosen versions: of these nothing is left to choose.
    """
    chosen = [version.item.found.patient for version in taken.values()]
    for instance in intake.instances_of(session, study.id, _ROLES):
        if instance.sop_instance_uid in left or (
            instance.purged and not are_one_patient([Patient.parse(instance.patient), *chosen])
        ):
            instance.role = ObjectRole.ASIDE


def _row(option: Option, of_question: Sequence[Option]) -> dict[str, Any]:
    """Return an option for a person as a JSON object. ``of_question``: all options of the same choice."""
    arrivals = [version.item.arrival for version in option.versions]
    times = [arrival.received_at for arrival in arrivals]
    return {
        "number": option.number,
        "choose": "image" if option.sop_instance_uid else "patient",
        "if_taken": option.if_taken,
        "sop_instance_uid": option.sop_instance_uid,
        "objects": len(_by_uid(option.versions)),
        "received": [version.number for version in option.versions],
        "calling_ae": sorted({arrival.calling_ae for arrival in arrivals}),
        "first_received_at": as_json(min(times)),
        "last_received_at": as_json(max(times)),
        "counts": any(version.in_force for version in option.versions),
        "stands_in": next((version.elsewhere for version in option.versions if version.elsewhere), ""),
        "differs": _differences(option, of_question),
    }


def _compared_with(registered: Mapping[str, str], in_force: Sequence[Version]) -> list[dict[str, Any]]:
    """Return a row with what is registered of a patient and one with what the images in force say, of each
    attribute in which they differ.
    """
    stated = Patient.of(registered)
    said = {
        word: " | ".join(sorted({version.item.found.identity.get(word, "") for version in in_force}))
        for version in in_force
        for word in stated.differences(version.item.found.patient)
    }
    nothing = {"number": None, "if_taken": None, "sop_instance_uid": "", "counts": False, "stands_in": ""}
    arrivals = [version.item.arrival for version in in_force]
    times = [arrival.received_at for arrival in arrivals]
    return [
        {
            **nothing,
            "choose": "registered",
            "objects": 0,
            "received": [],
            "calling_ae": [],
            "first_received_at": None,
            "last_received_at": None,
            "differs": {word: registered[word] for word in said},
        },
        {
            **nothing,
            "choose": "images",
            "objects": len(in_force),
            "received": [version.number for version in in_force],
            "calling_ae": sorted({arrival.calling_ae for arrival in arrivals}),
            "first_received_at": as_json(min(times, default=None)),
            "last_received_at": as_json(max(times, default=None)),
            "differs": said,
        },
    ]


def _differences(option: Option, of_question: Sequence[Option]) -> dict[str, str]:
    """Return the attributes in which the options of a choice differ, by keyword, as this one has them."""
    texts, mine = [_compared_attributes(other) for other in of_question], _compared_attributes(option)
    return {
        word: mine.get(word, "")
        for word in sorted({word for values in texts for word in values})
        if len({values.get(word, "") for values in texts}) > 1
    }


def _names(option: Option) -> list[Any]:
    """Return the SOP Instance UID and the spool names of an option's versions, which identify the option even
    if the database is lost.
    """
    return [option.sop_instance_uid, sorted({version.item.path.stem for version in option.versions})]


def _arrivals_hash(session: Session, study_id: int) -> str:
    """Return a hash of the spool names of a study's objects, which changes when another object of the study
    arrives.
    """
    names = {Path(row.path).stem for row in intake.received(session, study_id)}
    return hashlib.sha256(" ".join(sorted(names)).encode()).hexdigest()


def _compared_attributes(option: Option) -> dict[str, str]:
    """Return the attributes in which the options of a choice may differ, by keyword: those of the patient,
    and for an image also those that describe its pixels. Different values of one attribute are joined by
    vertical bars.
    """
    texts: dict[str, set[str]] = defaultdict(set)
    for version in option.versions:
        found = version.item.found
        values = {**found.identity}
        if option.sop_instance_uid:
            values |= found.attributes
            values |= {"TransferSyntaxUID": found.transfer_syntax_uid, "PixelData": found.pixels_sha256[:12]}
        for word, value in values.items():
            texts[word].add(value)
    return {word: " | ".join(sorted(values)) for word, values in texts.items()}


def _listed(session: Session, study: Study) -> Iterator[tuple[ReceivedObject, bool, bool, str]]:
    """Yield every version of the study's objects, also versions in other studies, each file once.

    Each as (row, whether it is current, whether it is superseded, UID of the other study that has it or "").
    """
    by_path: dict[str, ReceivedObject] = {}
    for row in intake.received(session, study.id):
        by_path.setdefault(row.path, row)
    sound = [row for row in by_path.values() if row.outcome is not Outcome.QUARANTINED]
    now = intake.instances(session, {row.sop_instance_uid for row in sound})
    for row in sound:
        instance = now.get(row.sop_instance_uid)
        if instance is not None and instance.role is ObjectRole.OWN:
            continue
        here = instance is not None and instance.study_id == study.id
        in_force = instance is not None and here and instance.path == row.path and instance.role in _ROLES
        yield row, in_force, not in_force and row.outcome is not Outcome.CONFLICT, ""
        if instance is not None and not here and row.outcome is Outcome.CONFLICT:
            copies = intake.stored_copies(session, row.sop_instance_uid, limit=100)
            other = session.get_one(Study, instance.study_id).study_instance_uid or ""
            yield from ((copy, False, False, other) for copy in copies if copy.path == instance.path)


def _patients(versions: Sequence[Version]) -> list[list[Version]]:
    """Return groups of versions that can be of one patient. A superseded version starts no group."""
    groups: list[list[Version]] = []
    for version in sorted(versions, key=lambda version: version.superseded):
        patient = version.item.found.patient
        group = next(
            (g for g in groups if not any(patient.contradicts(v.item.found.patient) for v in g)), None
        )
        if group is not None:
            group.append(version)
        elif not version.superseded:
            groups.append([version])
    return groups


def _by_uid(group: Sequence[Version]) -> dict[str, list[Version]]:
    """Return the versions of each object to choose between, by SOP Instance UID; a superseded version only if
    the object has no other, and then the newest.

    One that lacks patient attributes of an older one is left out: it was never current.
    """
    found: dict[str, list[Version]] = defaultdict(list)
    for version in group:
        if not version.superseded:
            found[version.uid].append(version)
    live = set(found)
    for version in group:
        patient, older = version.item.found.patient, found[version.uid]
        if version.uid not in live and not any(patient.lacks(one.item.found.patient) for one in older):
            found[version.uid] = [version]
    return found


def _chosen_option(
    options: Sequence[Option], take: Collection[int], question: tuple[int | None, str]
) -> Option:
    """Return the one option among ``take`` for a choice to be made (the key ``question``). Raises
    NotAllowedNow unless there is exactly one.
    """
    chosen = [option for option in options if option.question == question and option.number in take]
    if len(chosen) != 1:
        raise NotAllowedNow(
            f"choose first, one of each: {_summary(options)}. `dicom-node studies versions UID` shows them, "
            "`dicom-node studies release UID --take NUMBER` takes one"
        )
    return chosen[0]


def _summary(options: Sequence[Option]) -> str:
    """Return the options on one line without names: "patient 1 or 2; image 1.2.3: 3 or 4"."""
    numbers_of: dict[tuple[int | None, str], list[str]] = defaultdict(list)
    for option in options:
        numbers_of[option.question].append(str(option.number))
    return "; ".join(
        f"{f'image {uid}' if uid else 'patient'} {' or '.join(numbers)}"
        + (f" (if {if_taken} is taken)" if if_taken else "")
        for (if_taken, uid), numbers in numbers_of.items()
    )
