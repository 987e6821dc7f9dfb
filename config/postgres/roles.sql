-- Rights of the processes of a site in PostgreSQL, each with what it needs and no more.
--
-- Who made the tables (`dicom-node db upgrade`) owns them, and runs this after each upgrade:
--   psql --set ON_ERROR_STOP=1 --dbname=NAME --file=roles.sql
-- Then a user for each kind of node, whose name stands in that node's node.database_url:
--   CREATE USER listener1 PASSWORD '...' IN ROLE dicom_node_receives;
--   CREATE USER worker1 PASSWORD '...' IN ROLE dicom_node_works;
--   CREATE USER console1 PASSWORD '...' IN ROLE dicom_node_console;
-- dicom_node_receives: `--role listener` without a console. dicom_node_works: `worker`, `delivery`.
-- dicom_node_console: a node with console.enabled, `--role all`, and the command line of an admin.
-- None of them makes, changes or drops tables; none deletes from the audit; only the console knows users.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['dicom_node_any', 'dicom_node_receives', 'dicom_node_works', 'dicom_node_console'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
END;
$$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC, dicom_node_any, dicom_node_receives, dicom_node_works, dicom_node_console;

-- Every node: states of studies, jobs and deliveries, events, timers, notifications, the queue.
GRANT USAGE ON SCHEMA public TO dicom_node_any;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO dicom_node_any;
GRANT SELECT ON
    alembic_version, answer_object, archive_question, association, audit, awaited_answer, awaited_correction, claimed_workitem, cleaning_review, commitment, counted_image, cursor, decision,
    delivery, disk_sample, drawn_by_hand, event, feedback, held_result, hl7_message, installation, instance, job, lease, model_count,
    notification, notified_event, original, performed_step, received_object, removal, replaced_patient, reported_finding, requested_commitment, result,
    site_process, step_object, step_study, study, study_fetch, study_name, study_trace, waiting_report,
    withdrawal
TO dicom_node_any;
GRANT INSERT ON audit, event TO dicom_node_any;
GRANT UPDATE (reported) ON audit TO dicom_node_any;
GRANT UPDATE ON study TO dicom_node_any;
GRANT INSERT, UPDATE ON decision, delivery, job, removal, result, study_trace TO dicom_node_any;
GRANT INSERT, UPDATE, DELETE ON commitment, cursor, lease, notification, notified_event, requested_commitment, site_process, waiting_report
TO dicom_node_any;
GRANT SELECT, INSERT, UPDATE, DELETE ON
    procrastinate_events, procrastinate_jobs, procrastinate_periodic_defers, procrastinate_workers
TO dicom_node_any;

-- What is received, and what is forgotten of it.
GRANT dicom_node_any TO dicom_node_receives;
GRANT INSERT ON study TO dicom_node_receives;
GRANT INSERT, DELETE ON study_name TO dicom_node_receives;
GRANT SELECT, UPDATE, DELETE ON registered_patient TO dicom_node_receives;  -- by HL7
GRANT INSERT, UPDATE ON awaited_correction, replaced_patient TO dicom_node_receives;
GRANT INSERT, UPDATE, DELETE ON hl7_message TO dicom_node_receives;
GRANT INSERT, UPDATE ON archive_question, instance, original, received_object, study_fetch TO dicom_node_receives;
GRANT INSERT, UPDATE, DELETE ON association, claimed_workitem, disk_sample, performed_step, step_object, step_study TO dicom_node_receives;
GRANT UPDATE ON awaited_answer, cleaning_review, held_result TO dicom_node_receives;
GRANT INSERT ON answer_object TO dicom_node_receives;
GRANT DELETE ON counted_image, event, model_count TO dicom_node_receives;

-- What models made of images.
GRANT dicom_node_any TO dicom_node_works;
GRANT INSERT ON awaited_answer, counted_image TO dicom_node_works;
GRANT INSERT, DELETE ON held_result, reported_finding TO dicom_node_works;
GRANT INSERT, UPDATE ON cleaning_review, model_count TO dicom_node_works;
GRANT SELECT, INSERT, UPDATE ON learnt_screen TO dicom_node_works;

-- What people do.
GRANT dicom_node_receives, dicom_node_works TO dicom_node_console;

GRANT SELECT, INSERT, UPDATE, DELETE ON api_token, user_account, user_session TO dicom_node_console;
GRANT DELETE ON learnt_screen TO dicom_node_console;
GRANT INSERT, UPDATE, DELETE ON drawn_by_hand, feedback, registered_patient, withdrawal TO dicom_node_console;
