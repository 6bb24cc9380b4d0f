//! `POST /api/v1`: the agent's operator API in both encodings.

use axum::body::Bytes;
use axum::response::{IntoResponse, Response as HttpResponse};
use http::{HeaderMap, StatusCode, header};
use plenum_api::agent::{Call, Response, call::Type as Asked, response, response::Type as Said};
use plenum_api::codec;
use plenum_api::mesos::{self, FileInfo, Flag, Metric, TimeInfo, VersionInfo};

use super::{Http, attach, files, nested, reply_encoding, request_encoding, sessions, state, text, usage};
use crate::core::View;

pub(super) async fn call(http: &Http, headers: &HeaderMap, body: Bytes) -> HttpResponse {
    match answer(http, headers, body).await {
        Ok(response) | Err(response) => response,
    }
}

async fn answer(http: &Http, headers: &HeaderMap, body: Bytes) -> Result<HttpResponse, HttpResponse> {
    let encoding = request_encoding(headers)?;
    let call: Call = codec::decode(encoding, &body)
        .map_err(|error| text(StatusCode::BAD_REQUEST, &format!("Failed to parse the call: {error}")))?;
    if let Some(streamed) = on_containers(http, headers, &call).await {
        return streamed;
    }
    let wanted = reply_encoding(headers)?;
    let mut said = Response::default();
    let bad = |words: &str| text(StatusCode::BAD_REQUEST, words);
    match call.r#type() {
        Asked::Unknown => return Err(bad("The call has no type this agent knows.")),
        Asked::GetHealth => {
            said.set_type(Said::GetHealth);
            said.get_health = Some(response::GetHealth { healthy: true });
        }
        Asked::GetFlags => {
            said.set_type(Said::GetFlags);
            let flag = |(name, value): (String, String)| Flag { name, value: Some(value) };
            let flags = state::flags_list(&http.config).into_iter().map(flag).collect();
            said.get_flags = Some(response::GetFlags { flags });
        }
        Asked::GetVersion => {
            said.set_type(Said::GetVersion);
            let version_info = VersionInfo { version: super::MESOS_VERSION.to_owned(), ..Default::default() };
            said.get_version = Some(response::GetVersion { version_info });
        }
        Asked::GetMetrics => {
            said.set_type(Said::GetMetrics);
            let metrics = state::metrics(http).await?;
            let metric = |(name, value)| Metric { name, value: Some(value) };
            said.get_metrics =
                Some(response::GetMetrics { metrics: metrics.into_iter().map(metric).collect() });
        }
        Asked::ListFiles => {
            let path = call.list_files.ok_or_else(|| bad("LIST_FILES needs `list_files`"))?.path;
            let files = http.files.clone();
            let entries = files::blocking(move || files.browse(&path)).await?;
            said.set_type(Said::ListFiles);
            let file_infos = entries.into_iter().map(file_info).collect();
            said.list_files = Some(response::ListFiles { file_infos });
        }
        Asked::ReadFile => {
            let read = call.read_file.ok_or_else(|| bad("READ_FILE needs `read_file`"))?;
            let files = http.files.clone();
            let (size, data) =
                files::blocking(move || files.read(&read.path, read.offset, read.length)).await?;
            said.set_type(Said::ReadFile);
            said.read_file = Some(response::ReadFile { size, data: data.into() });
        }
        Asked::GetState
        | Asked::GetFrameworks
        | Asked::GetExecutors
        | Asked::GetTasks
        | Asked::GetAgent
        | Asked::GetOperations
        | Asked::GetResourceProviders => look(http, call.r#type(), &mut said).await?,
        Asked::GetContainers => {
            said.set_type(Said::GetContainers);
            let nested = call.get_containers.is_some_and(|wanted| wanted.show_nested());
            let containers = usage::containers(http, nested).await?;
            said.get_containers = Some(response::GetContainers { containers });
        }
        other => {
            let words = format!("This agent does not carry out {} yet.", other.as_str_name());
            return Err(text(StatusCode::NOT_IMPLEMENTED, &words));
        }
    }
    let body = codec::encode(wanted, &said);
    Ok(([(header::CONTENT_TYPE, wanted.media_type())], body).into_response())
}

/// Calls about containers inside of containers; `None` for all others. They choose the form of their answer themselves.
async fn on_containers(
    http: &Http,
    headers: &HeaderMap,
    call: &Call,
) -> Option<Result<HttpResponse, HttpResponse>> {
    Some(match call.r#type() {
        Asked::LaunchNestedContainerSession => match call.launch_nested_container_session.clone() {
            Some(launch) => sessions::session(http, headers, launch).await,
            None => Err(nested::missing("launch_nested_container_session")),
        },
        Asked::AttachContainerOutput => match call.attach_container_output.clone() {
            Some(attached) => attach::output(http, headers, attached).await,
            None => Err(nested::missing("attach_container_output")),
        },
        Asked::AttachContainerInput => {
            let words = "Expecting 'Content-Type' to be application/recordio for ATTACH_CONTAINER_INPUT call";
            Err(text(StatusCode::UNSUPPORTED_MEDIA_TYPE, words))
        }
        Asked::LaunchNestedContainer
        | Asked::LaunchContainer
        | Asked::WaitNestedContainer
        | Asked::WaitContainer
        | Asked::KillNestedContainer
        | Asked::KillContainer
        | Asked::RemoveNestedContainer
        | Asked::RemoveContainer => nested::call(http, headers, call.clone()).await,
        _ => return None,
    })
}

/// Calls that are answered from a picture of the agent.
async fn look(http: &Http, asked: Asked, said: &mut Response) -> Result<(), HttpResponse> {
    let (view, _) = http.view().await?;
    match asked {
        Asked::GetFrameworks => {
            said.set_type(Said::GetFrameworks);
            said.get_frameworks = Some(frameworks(&view));
        }
        Asked::GetExecutors => {
            said.set_type(Said::GetExecutors);
            said.get_executors = Some(executors(&view));
        }
        Asked::GetTasks => {
            said.set_type(Said::GetTasks);
            said.get_tasks = Some(tasks(&view));
        }
        Asked::GetAgent => {
            said.set_type(Said::GetAgent);
            said.get_agent = Some(response::GetAgent { agent_info: Some(view.agent), ..Default::default() });
        }
        Asked::GetOperations => {
            said.set_type(Said::GetOperations);
            said.get_operations = Some(response::GetOperations { operations: view.operations });
        }
        Asked::GetResourceProviders => {
            said.set_type(Said::GetResourceProviders);
            said.get_resource_providers = Some(Default::default());
        }
        _ => {
            said.set_type(Said::GetState);
            said.get_state = Some(response::GetState {
                get_tasks: Some(tasks(&view)),
                get_executors: Some(executors(&view)),
                get_frameworks: Some(frameworks(&view)),
            });
        }
    }
    Ok(())
}

fn frameworks(view: &View) -> response::GetFrameworks {
    let mut all = response::GetFrameworks::default();
    for framework in &view.frameworks {
        let one = response::get_frameworks::Framework { framework_info: framework.info.clone() };
        let list = if framework.completed { &mut all.completed_frameworks } else { &mut all.frameworks };
        list.push(one);
    }
    all
}

fn executors(view: &View) -> response::GetExecutors {
    let mut all = response::GetExecutors::default();
    for executor in view.frameworks.iter().flat_map(|framework| &framework.executors) {
        let one = response::get_executors::Executor { executor_info: executor.info.clone() };
        let list = if executor.completed { &mut all.completed_executors } else { &mut all.executors };
        list.push(one);
    }
    all
}

fn tasks(view: &View) -> response::GetTasks {
    let mut all = response::GetTasks::default();
    let executors = view.frameworks.iter().flat_map(|framework| &framework.executors);
    for task in executors.flat_map(|executor| &executor.tasks) {
        let list: &mut Vec<mesos::Task> = match task.stage {
            "pending" => &mut all.pending_tasks,
            "queued" => &mut all.queued_tasks,
            "launched" => &mut all.launched_tasks,
            "terminated" => &mut all.terminated_tasks,
            _ => &mut all.completed_tasks,
        };
        list.push(task.task.clone());
    }
    all
}

fn file_info(entry: crate::files::Entry) -> FileInfo {
    FileInfo {
        path: entry.path,
        nlink: i32::try_from(entry.nlink).ok(),
        size: Some(entry.size),
        mtime: Some(TimeInfo { nanoseconds: (entry.mtime * 1e9) as i64 }),
        mode: Some(entry.mode),
        uid: Some(entry.uid),
        gid: Some(entry.gid),
    }
}
