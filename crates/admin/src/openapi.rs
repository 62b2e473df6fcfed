//! The description of the API, made of its types.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::api;
use crate::passwords;
use crate::top::By;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Postrider: the operator's interface to a queue",
        description = "Served on the socket `admin.sock` in `dataDir`, where no token is asked \
                       for, and on the port `admin.listen`. Times are milliseconds since 1970.",
        version = "1",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        api::jobs,
        api::message,
        api::content,
        api::trace,
        api::act,
        api::stats,
        api::top,
        api::outcomes,
        passwords::show,
        api::document,
    ),
    components(schemas(api::Failure, By)),
    modifiers(&Bearer),
    security(("token" = [])),
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("What `admin.tokenFile` holds."));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(bearer.build()));
    }
}

/// As it is served, and kept in `docs/openapi.json`.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
